"""A reader's own teacher: a trained network from a file, in place of the one that a profile would train."""

from __future__ import annotations

from pathlib import Path

from segkd.config import NetworkConfig
from segkd.data.catalog import create_dataset
from segkd.models.checkpoints import identify
from segkd.models.weights import describe
from segkd.registry import UserError
from segkd.runs import Run


def teacher_from_file(source: str, dataset: str) -> NetworkConfig:
    """The network that a file holds, recognised by its keys and shapes.

    UserError: it is none of `list_models`, or has not the data set's number of classes.
    """
    found, classes = identify(source), create_dataset(dataset).classes
    if found.classes != len(classes):
        raise UserError(f"TEACHER '{source}' knows {found.classes} classes, {dataset} has {len(classes)}; give its own teacher")
    if found.in_channels != 3:
        raise UserError(f"TEACHER '{source}' reads {found.in_channels} channels; give a plain teacher, which reads RGB")
    return NetworkConfig(found.name, found.width, checkpoint=source, checkpoint_hash=found.content)


def about_teacher(run: Run) -> str:
    """Which file, its fingerprint and content, and, once the run of zero steps has evaluated it, its own score."""
    network = run.config.network
    if run.done:
        about, score = run.result["origin"]["checkpoint"], run.result
        own = f"own score {100 * score['miou']:.1f} % mIoU on {score['split']} (run {run.id})"
    else:
        about, own = describe(network.checkpoint, "checkpoint"), "not yet evaluated"
    name = Path(network.checkpoint).name
    return f"{network.label} from {name}, not trained here; layout {about['layout']}, content {about['content']}; {own}"

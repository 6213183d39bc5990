"""A reader's own teacher: a trained network from a file, in place of the one that a profile would train."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from segkd.config import NetworkConfig, from_dict
from segkd.data.catalog import create_dataset
from segkd.models import check_model_name
from segkd.models.checkpoints import check_fit, network_state
from segkd.models.weights import content_hash, file_record, find_weights, read_state
from segkd.registry import UserError, unknown
from segkd.runs import Run
from segkd.train.state import read_json
from segkd.train.trainee import bare_network

SIZES = {"width": float, "output_stride": int, "head_channels": int}  # "NETWORK@width=0.5,output_stride=16:FILE"
FORM = "NETWORK:FILE, such as deeplabv3/resnet18:teacher.pt or deeplabv3/resnet18@width=0.5,output_stride=16:teacher.pt"


def teacher_from_file(source: str, dataset: str) -> NetworkConfig:
    """The network of "NETWORK:FILE" (see `FORM`), or of a run: its folder, or its ``model.safetensors``.

    UserError: no such network or file, one that does not fill the network with the data set's classes to the last key, or
    that reads more than RGB.
    """
    head, colon, file = source.partition(":")
    named = colon and not Path(source).expanduser().exists()
    network, file = (_network(head, source), file) if named else _of_run(source)
    if network.extra_channels:
        raise UserError(f"TEACHER '{source}' reads {3 + network.extra_channels} channels; give a plain teacher, which reads RGB")
    about, classes = find_weights(file, "TEACHER").stat(), len(create_dataset(dataset).classes)
    what = f"TEACHER '{file}' as {network.label} with the {classes} classes of {dataset}"
    content = _content(network, file, classes, what, about.st_mtime_ns, about.st_size)
    return replace(network, checkpoint=file, checkpoint_hash=content)


def _network(text: str, source: str) -> NetworkConfig:
    name, _, sizes = text.partition("@")
    check_model_name(name)
    found = {}
    for key, _, value in (size.partition("=") for size in sizes.split(",") if size):
        if key not in SIZES:
            raise unknown(f"size in TEACHER '{source}'", key, SIZES)
        try:
            found[key] = SIZES[key](value)
        except ValueError:
            raise UserError(f"TEACHER '{source}': {key}={value} is no number; the form is {FORM}") from None
    return NetworkConfig(name, **found)


def _of_run(source: str) -> tuple[NetworkConfig, str]:
    folder = Path(source).expanduser().is_dir()
    path = find_weights(Path(source) / "model.safetensors" if folder else source, "TEACHER")
    config = path.with_name("config.json")
    if path.name != "model.safetensors" or not config.is_file():
        raise UserError(f"TEACHER '{source}': which network is it? give {FORM}; only a run's model.safetensors knows its own")
    network = from_dict(read_json(config, f"give {FORM}")).network
    return replace(network, weights=None, grad_checkpointing=False), str(path)


@lru_cache  # every page of a report opens several studies
def _content(network: NetworkConfig, file: str, classes: int, what: str, changed: int, size: int) -> str:
    """The content hash of a file that fills ``network`` to the last key."""
    model, state = bare_network(network, classes), read_state(file, "TEACHER")
    check_fit(model, network_state(state, model, what), what)
    return content_hash(state)


def as_source(network: NetworkConfig) -> str:
    """What `teacher_from_file` reads as ``network``."""
    sizes = ",".join(f"{key}={getattr(network, key)}" for key in SIZES if getattr(network, key) != getattr(NetworkConfig(), key))
    return f"{network.name}{'@' * bool(sizes)}{sizes}:{network.checkpoint}"


def about_teacher(run: Run) -> str:
    """Which file, its fingerprint and content, and, once the run of zero steps has evaluated it, its own score."""
    network = run.config.network
    about = run.result["origin"]["checkpoint"] if run.done else file_record(network.checkpoint, "checkpoint")
    own = f"own score {100 * run.result['miou']:.1f} % mIoU on {run.result['split']} (run {run.id})" if run.done else "not yet evaluated"
    return f"{network.label} from {Path(network.checkpoint).name}, not trained here; layout {about['layout']}, content {about['content']}; {own}"

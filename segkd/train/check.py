"""Mistakes in a config that are found before anything is written: names, files, and what does not go together."""

from __future__ import annotations

from segkd.config import DataConfig, NetworkConfig, RunConfig
from segkd.data import create_dataset, list_datasets
from segkd.data.readers.folder import content
from segkd.data.readers.folder_config import UNLABELLED
from segkd.data.verify import splits_of
from segkd.models import check_model_name
from segkd.models.checkpoints import read_checkpoint
from segkd.models.smp import is_smp
from segkd.registry import UserError, unknown
from segkd.train.trainee import method_of


def check_config(config: RunConfig) -> None:
    """Find mistakes before anything is written: unknown names, a method without the teacher that it needs."""
    if method_of(config).needs_teacher and config.teacher is None:
        raise UserError(f"method '{config.method}' needs a teacher; give the run a teacher config")
    if config.data.name not in list_datasets():
        raise unknown("data set", config.data.name, list_datasets())
    _check_content(config.data)
    _check_unlabelled(config)
    check_model_name(config.network.name)
    _check_start(config.network)
    if config.teacher is not None:
        check_config(config.teacher)


def _check_content(data: DataConfig) -> None:
    """A described folder is known by its content: its name says nothing."""
    found = content(data.root) if data.name == "folder" else ""
    if data.content != found:
        wanted = f"data.content '{data.content}'" if data.content else "a config without data.content"
        remedy = f"its content is {found}; give that" if found else "which only a described folder has; leave it out"
        raise UserError(f"{wanted}, but the data set is '{data.name}': {remedy}")


def _check_unlabelled(config: RunConfig) -> None:
    """Images without labels need a split of them, and a method whose terms all teach by them."""
    if not config.unlabelled:
        return
    method, where = method_of(config), f"unlabelled: {config.unlabelled}, but"
    if not method.terms:
        raise UserError(f"{where} method '{config.method}' has no term that images without labels teach by: leave it out, or take one such as cwd")
    if labelled := [name for name, part in method.parts.items() if not part.label_free]:
        raise UserError(f"{where} {' and '.join(labelled)} of method '{config.method}' needs labels: leave it out, or take a method such as cwd")
    if UNLABELLED not in splits_of(config.data.name, config.data.root):
        raise UserError(f"{where} data set '{config.data.name}' has no split of images without labels: see docs/your-own-data.md")
    if config.unlabelled > (count := len(create_dataset(config.data.name, config.data.root, UNLABELLED))):
        raise UserError(f"{where} data set '{config.data.name}' has {count} images without labels: a batch takes at most all of them")


def _check_start(network: NetworkConfig) -> None:
    if network.checkpoint is None and network.checkpoint_hash:
        raise UserError(f"network.checkpoint_hash '{network.checkpoint_hash}' without a checkpoint; give its file")
    if network.grad_checkpointing and is_smp(network.name):
        raise UserError(f"network.grad_checkpointing: '{network.name}' of smp has none; leave it out")
    if network.checkpoint is not None and network.weights is not None:
        raise UserError(f"network '{network.name}' has weights and a checkpoint; give one of them")
    if network.checkpoint is not None:
        read_checkpoint(network.checkpoint, network.checkpoint_hash)

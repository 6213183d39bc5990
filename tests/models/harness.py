"""What the tests of the networks share: small ones, whole ones without memory, and files of states."""

import functools

import torch
from safetensors.torch import save_file

from segkd.models import create_model


def small(name="deeplabv3/resnet18", seed=0, **options):
    """A narrow network for five classes, its weights drawn from ``seed``."""
    torch.manual_seed(seed)
    return create_model(*name.split("/"), **{"classes": 5, "width": 1.0 if name.startswith("smp") else 0.125} | options)


@functools.cache
def meta(name, **options):
    """A network at its full width, to ask and to count."""
    with torch.device("meta"):
        return create_model(*name.split("/"), **options)


def saved(folder, state):
    """The state as a file; its path."""
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "weights.safetensors")
    return str(folder / "weights.safetensors")


def same(ours, theirs):
    """Whether two states have the same keys and bits."""
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())


def rebuilt(said):
    """The scores that a prediction's classifier makes of its feature."""
    weight, bias = said.classifier
    return torch.einsum("bahw,ca->bchw", said.feature, weight) + bias[:, None, None]

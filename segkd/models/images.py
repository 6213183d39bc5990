"""What every network does to its images before the first layer: check them, normalise them, choose their layout."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from segkd.prediction import NetworkInfo
from segkd.registry import UserError


class Normalisation(NamedTuple):
    """What is taken from RGB in [0, 1] and what it is divided by, before the encoder."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# CIRKD and its descendants (methods.md 2.1) read BGR in 0-255 and subtract 104.00698793, 116.66876762, 122.67891434.
BGR255 = Normalisation((122.67891434 / 255, 116.66876762 / 255, 104.00698793 / 255), (1 / 255,) * 3)


def add_normalisation(network: nn.Module, in_channels: int, normalisation: Normalisation) -> None:
    """Buffers ``mean`` and ``std`` (1, in_channels, 1, 1).

    Channels beyond the third keep their size beside the image's: they pass as they are under ImageNet's.
    """
    mean, std = normalisation.mean, normalisation.std
    extra, beside = in_channels - 3, sum(std) / sum(IMAGENET.std)
    network.register_buffer("mean", torch.tensor((*mean, *[0.0] * extra)).view(1, -1, 1, 1))
    network.register_buffer("std", torch.tensor((*std, *[beside] * extra)).view(1, -1, 1, 1))


def normalise(network: nn.Module, images: Tensor, first_conv: nn.Conv2d) -> Tensor:
    """Images less ``mean``, over ``std``, in the memory layout of the weights, however the batch happened to be made."""
    weight = first_conv.weight
    last = not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return ((images - network.mean) / network.std).contiguous(memory_format=layout)


def check_images(info: NetworkInfo, images: Tensor) -> None:
    """UserError unless ``images`` are floats (B, in_channels, H, W) with both sides at least ``info.smallest``."""
    name, shape, channels = info.name, tuple(images.shape), info.in_channels
    if not images.is_floating_point():
        raise UserError(f"{name}: images are {images.dtype}; give floats in [0, 1] (bytes / 255)")
    if images.ndim != 4 or shape[1] != channels:
        raise UserError(f"{name}: images have shape {shape}; give (B, {channels}, H, W)")
    if min(shape[-2:]) < info.smallest:
        raise UserError(f"{name}: images are {shape[-2]}x{shape[-1]}; both sides must be at least {info.smallest}")

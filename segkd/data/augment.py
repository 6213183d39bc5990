"""Augmentation of a batch in one operation: random scale, pad bottom/right, random crop, random flip (methods.md 2.1).

Parameters are drawn on the CPU from the caller's generator, so they are the same on every device. Scale, crop and flip
act on rows and columns separately: an output row looks at a source row, an output column at a source column.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.prediction import IGNORE
from segkd.registry import UserError

SCALES = tuple((5 + n) / 10 for n in range(16))  # 0.5 ... 2.0: the factors of CIRKD's loaders
PADDING = (0.485, 0.456, 0.406)  # ImageNet's mean colour: zero once the network has normalised it


class Axis(NamedTuple):
    """Rows or columns of every image of a batch: ``size`` before, ``scaled`` after resizing, ``offset`` of the crop."""

    size: int
    scaled: Tensor  # (B,) int64
    offset: Tensor  # (B,) int64
    length: int
    flip: Tensor  # (B,) bool


@torch.no_grad()
def augment(
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    crop: tuple[int, int],
    scale: tuple[float, float] = (0.5, 2.0),
    flip: bool = True,
    ignore: int = IGNORE,
) -> tuple[Tensor, Tensor]:
    """Images uint8 (B, H, W, 3) and labels uint8 (B, H, W) -> float32 (B, 3, h, w) in [0, 1] and int64 (B, h, w).

    ``crop`` (h, w); ``scale``: those of the papers' 16 factors 0.5, 0.6 ... 2.0 in this range, equally likely;
    ``generator``: on the CPU; four numbers per image are drawn whatever the options. Images bilinear (half-pixel
    centres, no antialiasing), labels by the nearest pixel centre, padding ImageNet's mean colour and ``ignore``.
    """
    _check(images, labels)
    rows, columns = draw(tuple(images.shape[:3]), generator, crop, scale, flip)
    device = images.device
    grid_y, pick_y, pad_y = (part.to(device, non_blocking=True) for part in _look_up(rows))
    grid_x, pick_x, pad_x = (part.to(device, non_blocking=True) for part in _look_up(columns))

    size = (len(images), *crop)
    grid = torch.stack([grid_x[:, None, :].expand(size), grid_y[:, :, None].expand(size)], dim=-1)
    floats = images.permute(0, 3, 1, 2).float()
    out = F.grid_sample(floats, grid, mode="bilinear", padding_mode="border", align_corners=False).div_(255)
    index = pick_y[:, :, None] * images.shape[2] + pick_x[:, None, :]
    target = labels.flatten(1).gather(1, index.flatten(1)).view(size).long()

    padded = pad_y[:, :, None] | pad_x[:, None, :]
    for channel, value in enumerate(PADDING):  # in place, half the time of torch.where on the CPU
        out[:, channel].masked_fill_(padded, value)
    return out, target.masked_fill_(padded, ignore)


@torch.no_grad()
def to_batch(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same types without augmentation: float32 (B, 3, H, W) in [0, 1] and int64 (B, H, W)."""
    _check(images, labels)
    return images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255), labels.long()


def draw(
    shape: tuple[int, int, int],
    generator: torch.Generator,
    crop: tuple[int, int],
    scale: tuple[float, float],
    flip: bool,
) -> tuple[Axis, Axis]:
    """Random rows and columns for a batch of ``shape`` (B, H, W): one factor per image, its crop and its flip."""
    batch, height, width = shape
    factors = [s for s in SCALES if scale[0] - 1e-6 <= s <= scale[1] + 1e-6]
    if not factors:
        raise UserError(f"scale {tuple(scale)} holds none of the factors 0.5, 0.6 ... 2.0; (1, 1) is no scaling")
    numbers = torch.rand(batch, 4, generator=generator, dtype=torch.float64)
    factor = torch.tensor(factors, dtype=torch.float64)[(numbers[:, 0] * len(factors)).long()]
    mirrored = (numbers[:, 3] < 0.5) & flip
    axes = []
    for size, length, number, mirror in (
        (height, crop[0], numbers[:, 1], torch.zeros_like(mirrored)),
        (width, crop[1], numbers[:, 2], mirrored),
    ):
        scaled = (size * factor).round().long().clamp(min=1)
        room = (scaled - length).clamp(min=0)  # a smaller image starts at 0 and is padded behind
        axes.append(Axis(size, scaled, (number * (room + 1)).long(), length, mirror))
    return axes[0], axes[1]


def _look_up(axis: Axis) -> tuple[Tensor, Tensor, Tensor]:
    """Per output position (B, length): grid_sample's coordinate in [-1, 1], the label's source index, padding or not.

    The index is found in whole numbers, floor((p + 1/2) * size / scaled), so that rounding is the same on every device.
    """
    position = torch.arange(axis.length)
    position = torch.where(axis.flip[:, None], axis.length - 1 - position, position) + axis.offset[:, None]
    centre, scaled = 2 * position + 1, axis.scaled[:, None]
    index = torch.div(centre * axis.size, 2 * scaled, rounding_mode="floor").clamp_(max=axis.size - 1)
    return (centre.double() / scaled - 1).float(), index, position >= scaled


def _check(images: Tensor, labels: Tensor) -> None:
    """UserError unless images are uint8 (B, H, W, 3) and labels uint8 (B, H, W)."""
    shapes = images.ndim == 4 and images.shape[-1] == 3 and images.shape[:3] == labels.shape
    if not shapes or images.dtype != torch.uint8 or labels.dtype != torch.uint8:
        raise UserError(
            "a batch is images uint8 (B, H, W, 3) and labels uint8 (B, H, W): "
            f"got {images.dtype} {tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)}"
        )

"""Resize, crop and flip of a batch at once: where every output row and column looks, and the looking itself.

The three act on rows and columns separately: an output row looks at two source rows, an output column at two source
columns. Where they look is found in whole numbers on the device of the axes, so it is the same on every device.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.data.draws import Axis

BLOCK = 48  # output columns per matrix product: of 16 to 64 the fastest on AVX-512, by little


class Taps(NamedTuple):
    """Per output position (B, length): the two source positions it lies between, how far, and the nearest one."""

    lower: Tensor  # int64
    upper: Tensor  # int64, lower + 1 except at the border
    weight: Tensor  # float64 of ``upper``
    nearest: Tensor  # int64
    inside: Tensor  # bool: False is padding, whose positions above are those of the last row or column


def taps(axis: Axis) -> Taps:
    """Where an axis looks: pixel centres at whole numbers and a half, the border repeated, no antialiasing."""
    position = torch.arange(axis.length, device=axis.offset.device)
    position = torch.where(axis.flip[:, None], axis.length - 1 - position, position) + axis.offset[:, None]
    size, scaled = axis.size[:, None], axis.scaled[:, None]
    last, unit = size - 1, 2 * scaled
    centre = (2 * position + 1) * size  # of the output pixel in the source, in units of 1 / unit
    nearest = torch.minimum(torch.div(centre, unit, rounding_mode="floor"), last)
    between = torch.minimum((centre - scaled).clamp(min=0), unit * last)
    lower = torch.div(between, unit, rounding_mode="floor")
    weight = (between - lower * unit).double() / unit
    return Taps(lower, torch.minimum(lower + 1, last), weight, nearest, position < scaled)


def sample_images(images: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Bilinear: uint8 (B, H, W, 3) -> torch's default float type (B, 3, h, w) in [0, 1], on the device of ``images``.

    On the CPU a product of row weights, image and column weights: half the time of ``grid_sample``, or less.
    """
    return (_by_products if images.device.type == "cpu" else _by_grid)(images, rows, columns)


def sample_labels(labels: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Nearest: uint8 (B, H, W) -> int64 (B, h, w), on the device of ``labels``."""
    if labels.device.type != "cpu":
        image = torch.arange(len(labels), device=labels.device)[:, None, None]
        return labels[image, rows.nearest[:, :, None], columns.nearest[:, None, :]].long()
    out = np.empty((len(labels), rows.lower.shape[1], columns.lower.shape[1]), dtype=np.int64)
    for target, source, y, x in zip(out, labels.numpy(), rows.nearest.numpy(), columns.nearest.numpy()):
        target[:] = source[y][:, x]
    return torch.from_numpy(out)


def _by_grid(images: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """``sample_images`` for GPUs: one call for the batch."""
    dtype = torch.get_default_dtype()
    y, x = (
        ((2 * (taps.lower + taps.weight) + 1) / size - 1).to(dtype)
        for taps, size in zip((rows, columns), images.shape[1:3])
    )
    shape = (len(images), y.shape[1], x.shape[1])
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=-1)
    floats = images.permute(0, 3, 1, 2).to(dtype)
    return F.grid_sample(floats, grid, mode="bilinear", padding_mode="border", align_corners=False).div_(255)


def _by_products(images: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """``sample_images`` for CPUs, an image at a time, so that what is worked on stays in the cache.

    Rows have two weights each, a weighted sum of two embeddings; columns are blocks of a banded matrix, which matrix
    products read faster than any gather. Only the part of the image that the crop sees is read.
    """
    height, width = rows.lower.shape[1], columns.lower.shape[1]
    out = torch.empty(len(images), 3, height, width)
    window = torch.empty(images[0].numel())
    top, bottom = rows.lower.amin(1), rows.upper.amax(1) + 1
    planes = torch.arange(3)[:, None, None] * (bottom - top)[:, None, None, None]  # where a plane begins in the window
    pairs = (torch.stack([rows.lower, rows.upper], dim=-1) - top[:, None, None])[:, None] + planes
    weights = torch.stack([1 - rows.weight, rows.weight], dim=-1).div(255).to(out).repeat(1, 3, 1)
    first, last, bands = _bands(columns)
    spans = zip(top.tolist(), bottom.tolist(), first.amin(1).tolist(), last.amax(1).tolist())
    first, last = first.tolist(), last.tolist()
    for b, (top, bottom, left, right) in enumerate(spans):
        seen = images[b, top:bottom, left:right].permute(2, 0, 1)
        source = window[: seen.numel()].view(seen.shape).copy_(seen).flatten(0, 1)
        middle = F.embedding_bag(pairs[b].flatten(0, 1), source, mode="sum", per_sample_weights=weights[b])
        target = out[b].flatten(0, 1)
        for band, place, begin, end in zip(bands[b], range(0, width, BLOCK), first[b], last[b]):
            block = target[:, place : place + BLOCK]
            torch.mm(middle[:, begin - left : end - left], band[: end - begin, : block.shape[1]], out=block)
    return out


def _bands(columns: Taps) -> tuple[Tensor, Tensor, Tensor]:
    """The column weights in K blocks of output columns: (B, K) the source columns from ``first`` to before ``last``
    that a block looks at, and their weights (B, K, L, BLOCK), two in each output column, from ``first`` on."""
    missing = -columns.lower.shape[1] % BLOCK  # the last block is filled up with the last column
    lower, upper, weight = (
        F.pad(part[None], (0, missing), mode="replicate")[0].unflatten(1, (-1, BLOCK))
        for part in (columns.lower, columns.upper, columns.weight.to(torch.get_default_dtype()))
    )
    first, last = lower.amin(2), upper.amax(2) + 1
    bands = torch.zeros(*first.shape, int((last - first).max()), BLOCK)
    bands.scatter_(2, (lower - first[..., None])[:, :, None], 1 - weight[:, :, None])
    bands.scatter_add_(2, (upper - first[..., None])[:, :, None], weight[:, :, None])
    return first, last, bands

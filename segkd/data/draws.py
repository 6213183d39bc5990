"""What augmentation draws: scale factors, crops, flips and colours, on the CPU, the same on every device and rank."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segkd.device import send
from segkd.registry import UserError

SCALES = tuple((5 + n) / 10 for n in range(16))  # 0.5 ... 2.0: the factors of CIRKD's loaders
TRIES = 10  # crops that the label-category cap looks at, as in mmseg


class Numbers(NamedTuple):
    """Uniform numbers in [0, 1), float64, a row per image, drawn whatever the options."""

    place: Tensor  # (B, 4): factor, rows, columns, flip
    again: Tensor  # (B, TRIES, 2): rows and columns of further crops
    colour: Tensor  # (B, 9): of the photometric distortion

    @classmethod
    def of(cls, count: int, generator: torch.Generator, part: tuple[int, int] | None = None) -> Numbers:
        """For ``count`` images; ``part`` (first, total): they are number first, first + 1, ... of a larger batch.

        All numbers of the larger batch are drawn, so an image's crop does not depend on how many processes share it.
        """
        first, total = part or (0, count)
        if not 0 <= first <= first + count <= total:
            raise UserError(f"images {first} to {first + count} are no part of a batch of {total}; see sampler.shard")
        shapes = (total, 4), (total, TRIES, 2), (total, 9)
        drawn = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        return cls(*(numbers[first : first + count] for numbers in drawn))


class Axis(NamedTuple):
    """Rows or columns of every image of a batch: ``size`` before, ``scaled`` after resizing, ``offset`` of the crop."""

    size: Tensor  # (B,) int64
    scaled: Tensor  # (B,) int64
    offset: Tensor  # (B,) int64
    length: int
    flip: Tensor  # (B,) bool

    def to(self, device: torch.device) -> Axis:
        """The axis on a device."""
        return Axis(*(send(part, device) if torch.is_tensor(part) else part for part in self))

    def place(self, numbers: Tensor) -> Tensor:
        """Offsets (B,) int64 of the crop, each that keeps it inside equally likely; a smaller image starts at 0."""
        room = (self.scaled - self.length).clamp(min=0)
        return (numbers * (room + 1)).long()


def draw(
    sizes: Tensor,
    numbers: Numbers,
    crop: tuple[int, int],
    scale: tuple[float, float],
    flip: bool,
    continuous: bool = False,
) -> tuple[Axis, Axis]:
    """Rows and columns for images of ``sizes`` (B, 2) int64: one factor per image, its crop and its flip."""
    factor = _factors(numbers.place[:, 0], scale, continuous)
    mirrored = (numbers.place[:, 3] < 0.5) & flip
    axes = []
    for i, mirror in enumerate((torch.zeros_like(mirrored), mirrored)):
        scaled = (sizes[:, i] * factor).round().long().clamp(min=1)
        axis = Axis(sizes[:, i], scaled, torch.zeros_like(scaled), crop[i], mirror)
        axes.append(axis._replace(offset=axis.place(numbers.place[:, 1 + i])))
    return axes[0], axes[1]


def _factors(numbers: Tensor, scale: tuple[float, float], continuous: bool) -> Tensor:
    """Scale factors (B,) float64: one of SCALES within ``scale``, or any number within it."""
    low, high = scale
    if continuous:
        if not 0 < low <= high:
            raise UserError(f"scale {tuple(scale)} is no range of factors; give (lowest, highest), both above 0")
        return low + numbers * (high - low)
    factors = [s for s in SCALES if low - 1e-6 <= s <= high + 1e-6]
    if not factors:
        raise UserError(f"scale {tuple(scale)} holds none of the factors 0.5, 0.6 ... 2.0; (1, 1) is no scaling")
    return torch.tensor(factors, dtype=torch.float64)[(numbers * len(factors)).long()]

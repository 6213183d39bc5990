"""ISANet (Huang et al., 2019): self-attention as two sparse ones in turn, over far cells and then over near ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.models.heads.base import Head, Maps, Plan
from segkd.models.layers import Attention, conv_bn_relu

DOWN = 8  # cells of a near group a side; far groups take every eighth cell
# (B, A, P, 8, Q, 8) -> batch, the two axes that number a group, the two that run inside it, channels.
FAR, NEAR = (0, 3, 5, 2, 4, 1), (0, 2, 4, 3, 5, 1)
HIDDEN = -1e4  # score of a padded cell: its share is zero in every precision, and finite where a group has no other


class ISAHead(Head):
    """One 3x3 to A channels, far then near attention, joined with their input by a 1x1; classifier."""

    def __init__(self, plan: Plan):
        super().__init__(plan)
        self.reduce = conv_bn_relu(plan.maps[-1], plan.channels, 3)
        self.far, self.near = SparseAttention(plan.channels, FAR), SparseAttention(plan.channels, NEAR)
        self.fuse = conv_bn_relu(2 * plan.channels, plan.channels)

    def embed(self, maps: Maps) -> Tensor:
        x = self.reduce(maps[-1])
        return self.fuse(torch.cat([x, self.near(self.far(x))], dim=1))


class SparseAttention(Attention):
    """Attention (B, A, h, w) -> (B, A, h, w) within groups of cells, with keys and values half as wide.

    A grid that is no multiple of 8 is padded after the projections: padded cells reach no batch norm and no softmax.
    """

    def __init__(self, channels: int, order: tuple[int, ...]):
        super().__init__(channels, max(1, channels // 2))
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        query, key, value = (to_groups(_pad(f(x)), self.order) for f in (self.query, self.key, self.value))
        scores = query @ key.mT * query.shape[-1] ** -0.5 + self._hidden(x)
        return self.out(from_groups(scores.softmax(-1) @ value, self.order, size))

    def _hidden(self, x: Tensor) -> Tensor:
        """What is added to the scores, (1, groups, 1, cells): zero, but HIDDEN for padded cells."""
        real = _pad(x.new_ones(1, 1, *x.shape[-2:]))
        return to_groups((1 - real) * HIDDEN, self.order).mT


def to_groups(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """(B, A, 8P, 8Q) -> (B, groups, cells, A)."""
    batch, channels, height, width = x.shape
    cells = x.reshape(batch, channels, height // DOWN, DOWN, width // DOWN, DOWN)
    return cells.permute(order).flatten(3, 4).flatten(1, 2)


def from_groups(x: Tensor, order: tuple[int, ...], size: tuple[int, int]) -> Tensor:
    """The inverse of `to_groups`, cut to ``size``."""
    rows, columns = (-(-side // DOWN) for side in size)
    shape = (x.shape[0], x.shape[-1], rows, DOWN, columns, DOWN)
    inverse = [order.index(axis) for axis in range(6)]
    cells = x.reshape([shape[axis] for axis in order]).permute(inverse)
    return cells.reshape(*shape[:2], rows * DOWN, columns * DOWN)[..., : size[0], : size[1]]


def _pad(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % DOWN, 0, -height % DOWN))

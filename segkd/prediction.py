"""What a network says: the one type that networks produce and losses consume, and the two resizings everybody shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.device import send
from segkd.metrics import IGNORE


@dataclass
class Prediction:
    """Output of a segmentation network, before upsampling.

    ``logits`` (B, C, h, w); ``aux_logits`` (B, C, h, w) or None; ``feature`` (B, A, h, w), the input of the last 1x1
    classifier (after dropout); ``stages`` encoder maps, shallow to deep; ``classifier`` its weight (C, A) and bias (C,);
    ``detail_logits`` (B, 1, h, w) of a network with detail guidance (STDC), in training only.
    """

    logits: Tensor
    aux_logits: Tensor | None = None
    feature: Tensor | None = None
    stages: tuple[Tensor, ...] = ()
    classifier: tuple[Tensor, Tensor] | None = None
    detail_logits: Tensor | None = None

    def detach(self) -> Prediction:
        """The same values without gradient: what a teacher may give to a loss (of inference mode a copy, which a loss may save)."""
        return self._each(lambda t: t.clone() if t.is_inference() else t.detach())

    def cpu(self) -> Prediction:
        """The same prediction on the CPU."""
        return self._each(Tensor.cpu)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Prediction:
        new = lambda t: None if t is None else change(t)  # noqa: E731
        pair = None if self.classifier is None else tuple(map(new, self.classifier))
        maps = map(new, (self.logits, self.aux_logits, self.feature))
        return Prediction(*maps, tuple(map(new, self.stages)), pair, new(self.detail_logits))

    def reorder_classes(self, order: Tensor) -> Prediction:
        """The same prediction with class ``order[c]`` in the place of class c."""
        move = lambda t, dim: None if t is None else t.index_select(dim, order)  # noqa: E731
        pair = None if self.classifier is None else tuple(move(t, 0) for t in self.classifier)
        scores = move(self.logits, 1), move(self.aux_logits, 1)
        return Prediction(*scores, self.feature, self.stages, pair, self.detail_logits)

    def split(self, parts: int) -> list[Prediction]:
        """Cut a prediction on a stacked batch into ``parts`` equal predictions (one forward pass, several paths)."""
        chunks = lambda t: [None] * parts if t is None else list(t.chunk(parts))  # noqa: E731
        stages = list(zip(*(t.chunk(parts) for t in self.stages))) or [()] * parts
        rows = zip(chunks(self.logits), chunks(self.aux_logits), chunks(self.feature), stages, chunks(self.detail_logits))
        return [Prediction(z, a, f, tuple(s), self.classifier, d) for z, a, f, s, d in rows]


@dataclass(frozen=True)
class NetworkInfo:
    """What a method may know of a network before the first step: names and widths, never the network itself.

    ``smallest``: shortest side of an image that it takes; of an adapted one the longer side that `adapt` tried.
    """

    name: str
    num_classes: int
    in_channels: int
    feature_channels: int | None
    stage_channels: tuple[int, ...]
    has_aux: bool
    output_stride: int = 8
    smallest: int = 32


def labels_to_grid(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (B, H, W) int64 on a grid (h, w) by nearest (floor) resizing; returned as they are if already there."""
    if labels.shape[-2:] == tuple(size):
        return labels
    rows, columns = (_nearest(old, new, labels.device) for old, new in zip(labels.shape[-2:], size))
    return labels[:, rows[:, None], columns]


@lru_cache(maxsize=64)
def _nearest(old: int, new: int, device: torch.device) -> Tensor:
    """For each of ``new`` points the index of the point that torch's nearest resizing of ``old`` points takes."""
    index = torch.arange(old, dtype=torch.float32)
    return send(F.interpolate(index[None, None], size=new, mode="nearest")[0, 0].long(), device)


def class_index(labels: Tensor, classes: int) -> Tensor:
    """Labels with everything that is no class (ignored, negative, too large) as the number ``classes``."""
    valid = (labels >= 0) & (labels < classes) & (labels != IGNORE)
    return torch.where(valid, labels.long(), classes)


def resize_scores(scores: Tensor, size: tuple[int, int], align_corners: bool = True) -> Tensor:
    """Scores (B, C, h, w) at label size (H, W), bilinear; ``align_corners=True`` is the protocol of the four papers.

    Bilinear resizing is separable, so it is two small matrix products: equal to ``F.interpolate`` up to rounding, several
    times faster on a CPU, and with a backward pass that is deterministic on a GPU.
    """
    if scores.shape[-2:] == tuple(size):
        return scores
    rows, columns = (
        interpolation(old, new, align_corners, scores.dtype, scores.device) for old, new in zip(scores.shape[-2:], size)
    )
    return rows @ (scores @ columns.T)


@lru_cache(maxsize=64)
def interpolation(old: int, new: int, align_corners: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Matrix (new, old) of linear interpolation: each row holds the weights of the two nearest of ``old`` points."""
    index = torch.arange(new, dtype=torch.float64)
    position = index * ((old - 1) / max(new - 1, 1)) if align_corners else ((index + 0.5) * (old / new) - 0.5).clamp(min=0)
    below = position.floor().clamp(max=old - 1)
    above, weight = (below + 1).clamp(max=old - 1), position - below
    matrix = torch.zeros(new, old, dtype=torch.float64)
    matrix.scatter_add_(1, below.long()[:, None], (1 - weight)[:, None])
    matrix.scatter_add_(1, above.long()[:, None], weight[:, None])
    return send(matrix.to(dtype), device)

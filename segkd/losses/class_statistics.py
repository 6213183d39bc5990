"""Mean and covariance of the features of each class over a whole training, for feature augmentation (FAKD).

The online rule of ISDA (blackfeather-wang/ISDA-for-Deep-Networks@b66a594), summed over processes and centred before squaring.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.losses.distributed import sum_over_processes
from segkd.losses.precision import full_precision
from segkd.prediction import labels_to_grid
from segkd.registry import unknown

COVARIANCES = ("diagonal", "full")


class ClassStatistics(nn.Module):
    """Mean and biased covariance of the features of each class over everything seen: exactly the pooled ones.

    Buffers: ``count`` (C,) int64, ``mean`` (C, A) and ``covariance`` (C, A) "diagonal" or (C, A, A) "full", float64,
    all zero at the start. Ignored pixels are left out.
    """

    def __init__(self, num_classes: int, channels: int, covariance: str = "diagonal"):
        super().__init__()
        if covariance not in COVARIANCES:
            raise unknown("covariance", covariance, COVARIANCES)
        self.full = covariance == "full"
        shape = (num_classes, channels, channels) if self.full else (num_classes, channels)
        self.register_buffer("count", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(num_classes, channels, dtype=torch.float64))
        self.register_buffer("covariance", torch.zeros(shape, dtype=torch.float64))

    @torch.no_grad()
    @full_precision
    def update(self, feature: Tensor, labels: Tensor) -> None:
        """Take in a batch: ``feature`` (B, A, h, w), ``labels`` (B, H, W) or (B, h, w), 255 = ignore."""
        count, mean, covariance = self._moments(feature, labels_to_grid(labels, feature.shape[-2:]))
        total = self.count + count
        new = (count.double() / total.clamp_min(1).double())[:, None]
        gap = self.mean - mean
        spread = gap[:, :, None] * gap[:, None, :] if self.full else gap.square()
        part = new[:, :, None] if self.full else new
        self.covariance.copy_((1 - part) * self.covariance + part * covariance + part * (1 - part) * spread)
        self.mean.copy_((1 - new) * self.mean + new * mean)
        self.count.copy_(total)

    def _moments(self, feature: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Count, mean and biased covariance of each class in the batch of all processes, centred in a second pass."""
        points, labels = feature.flatten(2).transpose(1, 2), labels.flatten(1)  # (B, N, A), (B, N)
        classes = torch.arange(len(self.count), device=labels.device)
        members = labels[:, None, :] == classes[:, None]  # (B, C, N)
        count = sum_over_processes(members.sum((0, 2)))
        size = count.clamp_min(1)[:, None].double()
        mean = sum_over_processes((members.to(points.dtype) @ points).sum(0).double()) / size
        centred = points - F.embedding(labels.clamp(0, len(self.count) - 1), mean.to(points.dtype))
        if self.full:
            own = lambda mine: centred[mine] if mine.device.type == "cpu" else (centred * mine[..., None]).flatten(0, 1)  # noqa: E731  no wait
            squares = torch.stack([own(mine).T @ own(mine) for mine in members.unbind(1)])
        else:
            squares = (members.to(points.dtype) @ centred.square()).sum(0)
        return count, mean, sum_over_processes(squares.double()) / (size[:, :, None] if self.full else size)

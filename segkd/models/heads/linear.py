"""A linear head: DINOv2's own evaluation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segkd.models.heads.base import Head, Maps, Plan
from segkd.registry import UserError


class LinearHead(Head):
    """Batch norm and a 1x1 classifier on the last map: DINOv2's own linear evaluation (Oquab et al., section 7.4).

    A cell stands for its patch and not for a point, so corners are not aligned when scores are resized.
    """

    align_corners = False

    def __init__(self, plan: Plan):
        super().__init__(plan, dropout=0.0)
        if plan.channels != plan.maps[-1]:
            asked, own = plan.channels, plan.maps[-1]
            raise UserError(f"create_model: head_channels={asked}; a linear head is as wide as its encoder ({own}), leave it out")
        self.norm = nn.BatchNorm2d(plan.channels)

    @staticmethod
    def natural_width(maps: tuple[int, ...]) -> int:
        return maps[-1]

    def embed(self, maps: Maps) -> Tensor:
        return self.norm(maps[-1])

    @torch.no_grad()
    def fold_norm(self) -> None:
        """Let the classifier do what the batch norm does in eval mode, in place: scores keep their values."""
        scale = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
        shift = self.norm.bias - scale * self.norm.running_mean
        self.classifier.bias += self.classifier.weight.flatten(1) @ shift
        self.classifier.weight *= scale[:, None, None]
        self.norm = nn.Identity()

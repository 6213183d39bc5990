"""A trained network as teacher: frozen, in eval mode, one pass per batch for a whole cohort."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segkd.losses.method import TeacherKind
from segkd.prediction import Prediction
from segkd.train.evaluate import feed


class Teacher:
    """Holds a network without gradient and feeds it as its kind demands (``None``: the image alone)."""

    def __init__(self, model: nn.Module, kind: TeacherKind | None, seed: int):
        self.model = model.eval().requires_grad_(False)
        self.kind, self.seed = kind, seed

    @torch.no_grad()  # not inference_mode: losses such as MSE save the teacher's tensor for backward
    def __call__(self, images: Tensor, labels: Tensor, step: int) -> Prediction:
        """Prediction on a batch; the label noise is drawn anew each step from (seed, step)."""
        seen = feed(images, labels, self.kind, self.seed, step, "teacher")
        return self.model(seen.to(images.device)).detach()

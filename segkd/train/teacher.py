"""A trained network as teacher: frozen, in eval mode, one pass per batch for a whole cohort."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segkd.losses.distributed import Shard
from segkd.losses.method import TeacherKind
from segkd.prediction import Prediction
from segkd.train.evaluate import feed
from segkd.train.runtime import forward_precision, generator


class Teacher:
    """Holds a network without gradient and feeds it as its kind demands (``None``: the image alone).

    ``shuffled``: a control, in which every class speaks under the name of another, fixed by the seed. ``precision``: of
    the forward pass, one of `config.Schedule`'s.
    """

    def __init__(
        self, model: nn.Module, kind: TeacherKind | None, seed: int, shuffled: bool = False, precision: str = "float32"
    ):
        self.model = model.eval().requires_grad_(False)
        self.kind, self.seed, self.precision = kind, seed, precision
        self.order = other_names(model.info.num_classes, seed).to(next(model.parameters()).device) if shuffled else None

    @torch.no_grad()  # not inference_mode: losses such as MSE save the teacher's tensor for backward
    def __call__(self, images: Tensor, labels: Tensor, step: int, shard: Shard | None = None) -> Prediction:
        """Prediction on a batch, or on a process's ``shard`` of it; the label noise is drawn anew each step from (seed, step)."""
        seen = feed(images, labels, self.kind, self.seed, step, "teacher", shard=shard)
        with forward_precision(images.device, self.precision):
            prediction = self.model(seen).detach()
        return prediction if self.order is None else prediction.reorder_classes(self.order)


def other_names(num_classes: int, seed: int) -> Tensor:
    """An order of the classes (C,) that leaves none in its place (one cycle through all, drawn from the seed)."""
    cycle = torch.randperm(num_classes, generator=generator(seed, "classes"))
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(1)
    return order

"""MasKD, masked distillation with receptive tokens (Huang et al. 2023): compare scores region by region.

Code read: hunto/MasKD@b5af34f segmentation/losses/maskd.py, train_mask_module.py, train_maskd.py. The tokens act on the
logits of the teacher. Before the first step they learn to cover the image with masks that overlap little and keep the
teacher's task score. Known differences: the masks of the segmentation code come from the teacher alone (the general
library beside it multiplies in the student's); its teacher stays in train mode while the tokens learn, so that dropout
acts and BatchNorm drifts: not reproduced, the teacher here never changes. The variants are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.fields import Count, Momentum, NotNegative, Positive
from segkd.losses.context import Context, TrainingData
from segkd.losses.cross_entropy import pixel_weights, weighted_cross_entropy
from segkd.losses.method import METHODS, Term
from segkd.losses.precision import full_precision
from segkd.prediction import NetworkInfo, Prediction


@full_precision
def receptive_masks(teacher_logits: Tensor, tokens: Tensor) -> Tensor:
    """How much each position belongs to each token's region, (B, T, h, w) in [0, 1]; logits (B, C, h, w), tokens (T, C)."""
    products = tokens.expand(len(teacher_logits), -1, -1) @ teacher_logits.flatten(2)
    return products.sigmoid().view(len(teacher_logits), len(tokens), *teacher_logits.shape[2:])


@full_precision
def masked_mse(student_logits: Tensor, teacher_logits: Tensor, tokens: Tensor) -> Tensor:
    """Half the mean over images, tokens and classes of the squared score gap under each mask.

    The mask multiplies both scores before they are squared, so it enters squared above and plain below the line.
    """
    masks = receptive_masks(teacher_logits, tokens).flatten(2)  # (B, T, N)
    gaps = F.mse_loss(student_logits, teacher_logits, reduction="none").flatten(2)  # (B, C, N)
    inside = masks.square() @ gaps.transpose(1, 2)  # (B, T, C)
    return 0.5 * (inside / (masks.sum(-1, keepdim=True) + 1e-5)).mean()


@full_precision
def token_dice(teacher_logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean over images and ordered pairs of different tokens of the dice overlap of their masks; 0 for one token."""
    masks = receptive_masks(teacher_logits, tokens).flatten(2)
    products = masks @ masks.transpose(1, 2)  # (B, T, T)
    energy = products.diagonal(dim1=1, dim2=2)
    dice = 2 * products / (energy[:, :, None] + energy[:, None, :] + 2e-12)
    pairs = len(tokens) * (len(tokens) - 1)
    return (dice.sum((1, 2)) - dice.diagonal(dim1=1, dim2=2).sum(1)).mean() / max(pairs, 1)


def mask_loss(prediction: Prediction, labels: Tensor, tokens: Tensor) -> Tensor:
    """What the tokens learn from: cross-entropy of the teacher's scores times all masks, plus their dice overlap."""
    logits = prediction.logits
    masked = logits * receptive_masks(logits, tokens).sum(1, keepdim=True)
    return weighted_cross_entropy(masked, labels, pixel_weights(labels, None)) + token_dice(logits, tokens)


@dataclass(frozen=True)
class MasKDHyper:
    """Hyper-parameters of MasKD."""

    weight: NotNegative = 1.0  # MasKD code, train_maskd.py
    tokens: Count = 8  # MasKD code, segmentation
    aux_weight: NotNegative = 0.4  # MasKD code: the same tokens on the auxiliary scores, where both networks have them
    mask_share: NotNegative = 0.25  # steps of mask learning over steps of the run: 10000 of 40000 in MasKD's code
    mask_lr: Positive = 0.1  # MasKD code, train_mask_module.py, poly decay with power 0.9
    mask_momentum: Momentum = 0.9  # MasKD code, train_mask_module.py
    mask_weight_decay: NotNegative = 1e-3  # MasKD code, train_mask_module.py


@METHODS.register("maskd")
class MasKD(Term):
    """Squared score gaps under learnt masks."""

    Hyper = MasKDHyper
    per_image = label_free = True
    needs_teacher_aux = True

    def build(self, student: NetworkInfo, teacher: NetworkInfo | None) -> nn.Module:
        """The tokens, N(0, 0.01^2) until `prepare` has trained them; the student's optimiser never sees them."""
        self.module = nn.Module()
        start = 0.01 * torch.randn(self.hyper.tokens, teacher.num_classes)
        self.module.tokens = nn.Parameter(start, requires_grad=False)
        return self.module

    def prepare(self, teacher: Callable[[Tensor, Tensor, int], Prediction], data: TrainingData) -> None:
        """Mask learning on the run's own batches."""
        hyper, steps = self.hyper, round(self.hyper.mask_share * data.steps)
        tokens = self.module.tokens.requires_grad_(True)
        optimiser = torch.optim.SGD([tokens], hyper.mask_lr, hyper.mask_momentum, weight_decay=hyper.mask_weight_decay)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = hyper.mask_lr * (1 - step / steps) ** 0.9
            images, labels = data.batch(step)
            optimiser.zero_grad()
            mask_loss(teacher(images, labels, step).detach(), labels, tokens).backward()
            optimiser.step()
        tokens.requires_grad_(False).grad = None

    def loss(self, context: Context) -> dict[str, Tensor]:
        hyper, tokens = self.hyper, self.module.tokens.detach()
        distance = lambda s, t: masked_mse(s, t, tokens)  # noqa: E731
        return {f"{self.name}{end}": hyper.weight * part * distance(s, t) for end, part, s, t in context.heads(hyper.aux_weight)}

"""The task loss: cross-entropy at label size for the main and the auxiliary head, plain or weighted pixel by pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.losses.method import TaskWeight, full_precision
from segkd.prediction import IGNORE, Prediction, resize_scores


def task_loss(
    prediction: Prediction,
    labels: Tensor,
    aux_weight: float = 0.4,
    weight: TaskWeight | None = None,
    align_corners: bool = True,
) -> dict[str, Tensor]:
    """``{"task": CE(main), "task_aux": aux_weight * CE(aux)}``, scalars; "task_aux" only if the network has that head.

    ``labels`` (B, H, W), 255 = ignore. Without ``weight`` each is the mean over the pixels that are not ignored; with
    it, ``weight.main`` and ``weight.aux`` (B, H, W) multiply the pixels (an aux of None leaves that head plain).
    A batch that selects nothing gives zero. Source: the CIRKD code family, which all four papers follow (aux 0.4).
    """
    main, aux, normaliser = weight or (None, None, "pixels")
    losses = {"task": weighted_mean(pixel_losses(prediction.logits, labels, align_corners), labels, main, normaliser)}
    if prediction.aux_logits is not None:
        pixels = pixel_losses(prediction.aux_logits, labels, align_corners)
        losses["task_aux"] = aux_weight * weighted_mean(pixels, labels, aux, normaliser)
    return losses


@full_precision
def pixel_losses(logits: Tensor, labels: Tensor, align_corners: bool = True) -> Tensor:
    """Cross-entropy (B, H, W) of scores (B, C, h, w) brought to label size; 0 on ignored pixels."""
    scores = resize_scores(logits, labels.shape[-2:], align_corners)
    return F.cross_entropy(scores, labels, ignore_index=IGNORE, reduction="none")


@full_precision
def weighted_mean(losses: Tensor, labels: Tensor, weight: Tensor | None, normaliser: str = "pixels") -> Tensor:
    """Mean of pixel losses (B, H, W).

    Without ``weight``: over the pixels that are not ignored. "pixels": sum(w * loss) over all B * H * W pixels.
    "selected": sum(w * loss) / sum(w), ignored pixels in neither sum.
    """
    valid = labels != IGNORE
    if weight is None:
        return losses.sum() / valid.sum().clamp_min(1)
    weight = torch.where(valid, weight, 0.0)
    total = weight.sum().clamp_min(torch.finfo(weight.dtype).tiny) if normaliser == "selected" else losses.numel()
    return (weight * losses).sum() / total

"""The task loss: cross-entropy at label size for the main and the auxiliary head, plain or weighted; detail guidance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.device import GPU_BLOCK
from segkd.losses.context import TaskWeight, class_labels
from segkd.losses.detail import detail_loss
from segkd.losses.distributed import count_over_processes, sum_over_processes
from segkd.losses.precision import full_precision, with_gradient
from segkd.prediction import IGNORE, Prediction, interpolation, resize_scores


def task_loss(
    prediction: Prediction,
    labels: Tensor,
    aux_weight: float = 0.4,
    weight: TaskWeight | None = None,
    align_corners: bool = True,
) -> dict[str, Tensor]:
    """``{"task": CE(main), "task_aux": aux_weight * CE(aux)}``, scalars; "task_aux" only if the network has that head.

    A prediction with ``detail_logits`` adds "detail" (`detail.detail_loss`), which ``weight`` leaves as it is.
    ``labels`` (B, H, W) or (B, 1, H, W), 255 = ignore. Without ``weight`` each is the mean over the pixels that are not ignored; with
    it, ``weight.main`` and ``weight.aux`` (B, H, W) multiply the pixels (an aux of None leaves that head plain).
    A batch that selects nothing gives zero. Where several processes train the run, the mean is over the pixels of all and
    the loss is this one's part of it. Source: the CIRKD code family, which all four papers follow (aux 0.4).
    """
    labels, (main, aux, normaliser) = class_labels(labels), weight or (None, None, "pixels")
    pixels = pixel_weights(labels, main, normaliser, of_all=True)
    losses = {"task": weighted_cross_entropy(prediction.logits, labels, pixels, align_corners)}
    if prediction.aux_logits is not None:
        pixels = pixel_weights(labels, aux, normaliser, of_all=True)
        losses["task_aux"] = aux_weight * weighted_cross_entropy(prediction.aux_logits, labels, pixels, align_corners)
    if prediction.detail_logits is not None:
        losses["detail"] = detail_loss(prediction.detail_logits, labels, align_corners)
    return losses


@full_precision
def pixel_losses(logits: Tensor, labels: Tensor, align_corners: bool = True) -> Tensor:
    """Cross-entropy (B, H, W) of scores (B, C, h, w) brought to label size; 0 on ignored pixels."""
    scores = resize_scores(logits, labels.shape[-2:], align_corners)
    return F.cross_entropy(scores, labels, ignore_index=IGNORE, reduction="none")


def pixel_weights(labels: Tensor, weight: Tensor | None, normaliser: str = "pixels", of_all: bool = False) -> Tensor:
    """What each pixel (B, H, W) counts in a mean of pixel losses; ignored pixels count nothing.

    Without ``weight``: 1 / pixels that are not ignored. "pixels": weight / all B * H * W pixels. "selected": weight / its
    sum over the pixels that are not ignored. All zero where nothing is selected. ``of_all``: the mean is over the batch
    of all processes that train the run, and ``labels`` are this one's shard of it.
    """
    valid, add = labels != IGNORE, sum_over_processes if of_all else lambda tensor: tensor
    if weight is None:
        return valid.double() / add(valid.sum()).clamp_min(1)
    weight = torch.where(valid, weight, 0.0)
    if normaliser == "selected":
        return weight / add(weight.sum()).clamp_min(torch.finfo(weight.dtype).tiny)
    return weight / (count_over_processes(labels.numel(), labels) if of_all else labels.numel())


@full_precision
def weighted_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor, align_corners: bool = True) -> Tensor:
    """Sum over pixels of weight * cross-entropy, a scalar, for scores (B, C, h, w) and labels (B, H, W).

    Equal to ``(weight * pixel_losses(...)).sum()``, but no more than one image of scores at label size is ever held (a
    GPU, where kernels cost as much as small images, has `GPU_BLOCK` of them), and it takes about half the time: the
    gradient is made in the forward pass, while those scores are still in the cache.
    """
    return with_gradient(*_weighted_cross_entropy(logits, labels, weight.to(logits.dtype), align_corners))


@torch.no_grad()
def _weighted_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The sum, the logits and the gradient for them."""
    sizes = zip(logits.shape[-2:], labels.shape[-2:])
    rows, columns = (interpolation(old, new, align_corners, logits.dtype, logits.device) for old, new in sizes)
    gradient, total = torch.empty_like(logits), logits.new_zeros(())
    true = torch.where(labels == IGNORE, 0, labels)[:, None]
    parts, cpu = (logits, true, weight[:, None], gradient), logits.device.type == "cpu"
    many = max(1, GPU_BLOCK // (logits.shape[1] * labels[0].numel()))
    for image, index, weigh, slot in zip(*(parts if cpu else (part.split(many) for part in parts))):
        scores = rows @ (image @ columns.T)  # (C, H, W), on a GPU of several images
        scores -= scores.amax(-3, keepdim=True)
        at_label = scores.gather(-3, index)
        mass = scores.exp_().sum(-3, keepdim=True)
        total += (weigh * (mass.log() - at_label)).sum()
        scores *= weigh / mass  # weight * (softmax - one-hot) is the gradient at label size
        if cpu:
            scores.scatter_add_(-3, index, -weigh)
        else:  # to add in one order a GPU sorts, and waits; to set a number it does neither
            scores.addcmul_(torch.zeros_like(scores).scatter_(-3, index, 1.0), weigh, value=-1)
        slot.copy_(rows.T @ (scores @ columns))
    return total, logits, gradient

"""Detail guidance (STDC: Fan et al., CVPR 2021): a head on a fine map learns where labels change.

Code read: MichaelFan01/STDC-Seg@7d3fa79 loss/detail_loss.py, mmsegmentation stdc_head.py and dice_loss.py. The target comes
from the label map (class numbers) by a 3x3 Laplacian at strides 1, 2 and 4. As in both codes a negative answer is no edge, so of
two classes the side with the larger number has the edge, and each map is made binary before they are fused. The paper
calls the 1x1 that fuses them trainable; no gradient passes the threshold after it, so it keeps its first values in both
codes, 0.6, 0.3 and 0.1, and is a constant here. A point of the stride-4 map alone is worth 0.1, not above the threshold.
Dice has squares in its denominator, as in mmsegmentation; STDC's code has none.
Differences: an ignored pixel and what lies outside the image are no neighbours (both codes take 255 and 0 for classes, so
that ignored regions and the frame of the image become edges), and ignored pixels count in neither part of the loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.losses.distributed import sum_over_processes
from segkd.losses.precision import full_precision
from segkd.prediction import IGNORE, labels_to_grid, resize_scores

TENTHS = {1: 6, 2: 3, 4: 1}  # weight of each stride's edges, in tenths, so that the comparison is exact
THRESHOLD = 1  # tenths
SMOOTH = 1.0  # of Dice


def detail_target(labels: Tensor) -> Tensor:
    """Where the labels (B, H, W) have detail, bool (B, H, W); False on ignored pixels."""
    edges = label_edges(labels)
    fused = sum(weight * labels_to_grid(edges[:, ::step, ::step], edges.shape[-2:]) for step, weight in TENTHS.items())
    return (fused > THRESHOLD) & (labels != IGNORE)


def label_edges(labels: Tensor) -> Tensor:
    """Where the Laplacian of the labels (B, H, W) over a pixel's real neighbours is positive, bool (B, H, W).

    A strided convolution sees the same windows, so its answers are every second or fourth of these.
    """
    valid = labels != IGNORE
    number = torch.where(valid, labels, 0).float()
    total, count = (F.avg_pool2d(x[:, None], 3, 1, 1, divisor_override=1)[:, 0] for x in (number, valid.float()))
    return valid & (count * number > total)  # whole numbers: exact


@full_precision
def detail_loss(detail_logits: Tensor, labels: Tensor, align_corners: bool = True) -> Tensor:
    """Binary cross-entropy + Dice of scores (B, 1, h, w), brought to the size of labels (B, H, W), a scalar.

    Cross-entropy is the mean over the batch's pixels that are not ignored, Dice, 1 - (2 sum(p g) + 1) / (sum(p^2) +
    sum(g^2) + 1), the mean over images that are not ignored whole. Zero where all is ignored. Where several processes train the run, the means are
    over the batch of all and the loss is this one's part of them.
    """
    valid = labels != IGNORE
    scores = resize_scores(detail_logits, labels.shape[-2:], align_corners)[:, 0]
    target = detail_target(labels).to(scores.dtype)
    pixels = F.binary_cross_entropy_with_logits(scores, target, reduction="none")
    entropy = torch.where(valid, pixels, 0.0).sum() / sum_over_processes(valid.sum()).clamp_min(1)
    found = torch.where(valid, scores.sigmoid(), 0.0)
    both, each = (found * target).sum((1, 2)), (found.square() + target.square()).sum((1, 2))
    dice = 1 - (2 * both + SMOOTH) / (each + SMOOTH)
    return entropy + dice.sum() / sum_over_processes(valid.flatten(1).any(1).sum()).clamp_min(1)  # 0 for an image ignored whole

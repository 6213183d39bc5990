"""Where a class channel of the student differs from the teacher's: on pixels of the class or elsewhere (HWD Table I)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from segkd.analysis.features import evaluating
from segkd.losses.hwd import activation_maps
from segkd.prediction import IGNORE, labels_to_grid
from segkd.train.evaluate import batches


def channel_sums(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 4.0) -> Tensor:
    """Sums over pixels of the squared difference of the activation maps, for each image and class: (4, B, C) float64.

    On pixels of the class, how many these are, on all other labelled pixels, how many these are. Logits (B, C, h, w) of
    one grid, labels (B, H, W). The activation of a channel is its softmax over positions of logits / temperature (HWD
    Eq. 1); void pixels take part in that softmax and in nothing else.
    """
    classes, grid = student.shape[1], student.shape[-2:]
    maps = [activation_maps(x.double().flatten(2), temperature) for x in (student, teacher)]
    squared = (maps[0] - maps[1]).square()
    small = labels_to_grid(labels, tuple(grid)).flatten(1)[:, None]
    own = small == torch.arange(classes, device=small.device)[None, :, None]
    other = ~own & (small != IGNORE)
    return torch.stack([(squared * own).sum(2), own.sum(2), (squared * other).sum(2), other.sum(2)])


def divergence_ratios(student: nn.Module, teacher: nn.Module, packed) -> pd.DataFrame:
    """TD, NTD and their ratio for each class that occurs: class, td, ntd, ratio, ratio_per_image, images.

    The paper does not say how images are averaged. ``td`` and ``ntd`` are means over the pixels of all images together
    and ``ratio`` is theirs; ``ratio_per_image`` is the median over images of the ratio within each, since a ratio of an
    image that the student copies well away from the class has no bound.
    """
    parts = []
    with evaluating(student) as device, evaluating(teacher):
        for _, images, labels in batches(packed):
            pair = [model(images.to(device)).logits for model in (student, teacher)]
            parts.append(channel_sums(*pair, labels.to(device)).cpu())
    inside, own, outside, other = torch.cat(parts, 1).numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        td, ntd = inside.sum(0) / own.sum(0), outside.sum(0) / other.sum(0)
        each = np.where((own > 0) & (other > 0), (inside / own) / (outside / other), np.nan)
    frame = pd.DataFrame({"class": list(packed.classes), "td": td, "ntd": ntd, "ratio": td / ntd})
    shown = own.sum(0) > 0
    frame["ratio_per_image"] = [float(np.nanmedian(each[:, c])) if shown[c] else np.nan for c in range(len(shown))]
    return frame.assign(images=(own > 0).sum(0))[shown].reset_index(drop=True)

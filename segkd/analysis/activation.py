"""How strongly a network's last features respond on some classes (FAKD Fig. 3): maps, and inside over outside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from segkd.analysis.features import evaluating, one
from segkd.prediction import IGNORE, labels_to_grid, resize_scores
from segkd.registry import UserError
from segkd.train.evaluate import batches


def feature_activation(model: nn.Module, images: Tensor) -> Tensor:
    """Mean absolute feature before the classifier, over its channels: images (B, 3, H, W) to (B, h, w)."""
    feature = model(images).feature
    if feature is None:
        raise UserError("feature_activation: the network gives no feature before its classifier; use one of segkd's")
    return feature.abs().mean(1)


def activation_map(model: nn.Module, image) -> np.ndarray:
    """The activation of one image (H, W, 3) uint8 at its size, divided by its mean: networks have no common unit."""
    with evaluating(model) as device:
        maps = feature_activation(model, one(image)[0].to(device))
        large = resize_scores(maps[:, None], image.shape[:2], model.align_corners)[0, 0].cpu().numpy()
    return large / max(float(large.mean()), 1e-12)


def hardest(ious: pd.Series) -> list[str]:
    """The third of the classes with the lowest IoU (index: class), at least one, hardest first."""
    return list(ious.sort_values(kind="stable").index[: max(1, round(len(ious) / 3))])


def inside_outside(model: nn.Module, packed, classes: Sequence[str]) -> pd.DataFrame:
    """Mean activation on pixels of a class over that on all other labelled pixels, on the grid, pooled over the split.

    Columns: class, pixels, inside, outside, ratio; a line for each of ``classes`` and one, ``together``, for their union.
    Above 1: the features respond more strongly there.
    """
    wanted = torch.tensor([packed.classes.index(name) for name in classes])
    total, own = torch.zeros(2, dtype=torch.float64), torch.zeros(2, len(packed.classes), dtype=torch.float64)
    with evaluating(model) as device:
        for _, images, labels in batches(packed):
            maps = feature_activation(model, images.to(device)).cpu().double()
            small = labels_to_grid(labels, tuple(maps.shape[-2:]))
            valid = small != IGNORE
            total += torch.stack([maps[valid].sum(), valid.sum()])
            own[0] += torch.bincount(small[valid], maps[valid], len(packed.classes))
            own[1] += torch.bincount(small[valid], minlength=len(packed.classes))
    inside = torch.cat([own[:, wanted], own[:, wanted].sum(1, keepdim=True)], 1)
    means = inside[0] / inside[1], (total[0] - inside[0]) / (total[1] - inside[1])
    frame = pd.DataFrame({"class": [*classes, "together"], "pixels": inside[1].long().numpy()})
    return frame.assign(inside=means[0].numpy(), outside=means[1].numpy(), ratio=(means[0] / means[1]).numpy())

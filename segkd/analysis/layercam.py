"""Where a label-assisted network's score comes from, the image or the label channel: LayerCAM per input (LAD Fig. 4).

One network has one map per layer, so the split between its inputs is made in the first convolution, which is linear:
its output is the sum of what the three image channels and what the label channel add. LayerCAM (Jiang et al., 2021) is
taken of each addend. Both addends get the same gradient; the maps differ by what each input puts in. The addends stand
before the first normalisation, so a channel may be negative there: maps are clipped at zero after the sum over
channels, as in LayerCAM. A share is a matter of degree: an image whose signal is large but hardly used keeps some
mass, so read shares by comparison of teachers; ``input_ablation`` asks the same question without any gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.analysis.features import evaluating, network_input, one
from segkd.analysis.figures.chart import listed, tell
from segkd.analysis.figures.pictures import draw_map
from segkd.analysis.figures.style import styled, subplots
from segkd.metrics import confusion_matrix, scores
from segkd.models.layers import replace_modules
from segkd.prediction import resize_scores
from segkd.registry import UserError
from segkd.train.evaluate import batches
from segkd.train.runtime import like

MIN_PIXELS = 50  # of a class, for an image to show it


class SplitConv(nn.Module):
    """A convolution over 3 + k channels as the sum of one over the image and one over the rest; bias is neither's."""

    def __init__(self, conv: nn.Conv2d, image_channels: int = 3):
        super().__init__()
        if conv.groups != 1 or conv.in_channels <= image_channels:
            raise UserError(f"layercam: {conv.in_channels} input channels; give a network with a label channel (in_channels=4)")
        self.cut = image_channels
        self.image = _part(conv, slice(0, image_channels))
        self.label = _part(conv, slice(image_channels, None))
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3 + k, H, W) to (B, C', h, w), equal to the convolution that was split."""
        both = self.image(x[:, : self.cut]) + self.label(x[:, self.cut :])
        return both if self.bias is None else both + self.bias[:, None, None]


def _part(conv: nn.Conv2d, channels: slice) -> nn.Conv2d:
    part = copy.deepcopy(conv)  # keeps stride, padding and the padding rule of subclasses
    part.weight = nn.Parameter(conv.weight.detach()[:, channels].clone())
    part.in_channels, part.bias = part.weight.shape[1], None
    return part


class _Logits(nn.Module):
    """A network that answers with its scores at input size: what grad-cam expects."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.align_corners = model, getattr(model, "align_corners", True)

    def forward(self, x: Tensor) -> Tensor:
        return resize_scores(self.model(x).logits, tuple(x.shape[-2:]), self.align_corners)


class InputLayerCAM:
    """LayerCAM of the image part and of the label part of a network's first convolution, on a copy of the network."""

    def __init__(self, model: nn.Module):
        from pytorch_grad_cam import LayerCAM

        network = copy.deepcopy(model).eval().requires_grad_(True)
        first = network.encoder.first_conv
        self.split = SplitConv(first)
        replace_modules(network, {first: self.split})
        self.cam = LayerCAM(_Logits(network), [self.split.image, self.split.label])

    def __call__(self, x: Tensor, target: int, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Unscaled maps (h, w) >= 0 of image and label part for the score of class ``target``, summed over ``mask``.

        ``x`` (1, 4, H, W); ``mask`` (H, W) bool. grad-cam scales each of its maps to 0..1, which hides how much each input
        gives; so its map is taken before that step.
        """
        with torch.enable_grad():
            self.cam(x, targets=[lambda output: (output[target] * mask.to(output.device)).sum()])
        seen = self.cam.activations_and_grads
        pairs = zip(seen.activations, seen.gradients)  # the order of the gradients is of no account: they are equal
        raw = [self.cam.get_cam_image(x, None, None, a.numpy(), g.numpy(), False)[0] for a, g in pairs]
        image_map, label_map = (torch.from_numpy(np.maximum(r, 0)) for r in raw)
        return image_map, label_map


@dataclass(frozen=True)
class Attribution:
    """LayerCAM of one image and class: maps at image size in one unit, and each input's share of the total mass."""

    image: np.ndarray  # (H, W, 3) uint8
    label_input: np.ndarray  # (H, W) float, the fourth channel as the network got it
    image_map: np.ndarray  # (H, W) >= 0
    label_map: np.ndarray  # (H, W) >= 0
    image_share: float  # in [0, 1], of the unscaled maps; NaN if both are zero
    label_share: float


def layercam(model: nn.Module, image, label, label_noise: Callable, target: int, cam: InputLayerCAM | None = None) -> Attribution:
    """LayerCAM of class ``target`` split between image and label input of a 4-channel network, which is not changed.

    ``image`` (H, W, 3) uint8, ``label`` (H, W) uint8, ``label_noise`` see ``features.network_input``. The score is
    summed over the pixels labelled as the class. ``cam`` reuses the split copy of the network over many images.
    UserError: no such pixel in the label, or no label channel.
    """
    mask = torch.from_numpy(np.asarray(label) == target)
    if not mask.any():
        raise UserError(f"layercam: class {target} is not in this label; choose another image")
    with like(model):
        x = network_input(*one(image, label), label_noise)
    maps = (cam or InputLayerCAM(model))(x, target, mask)
    mass = [float(m.double().sum()) for m in maps]
    shares = [m / sum(mass) if sum(mass) > 0 else float("nan") for m in mass]
    large = F.interpolate(torch.stack(maps)[None], x.shape[-2:], mode="bilinear", align_corners=False)[0].numpy()
    return Attribution(np.asarray(image), x[0, 3].numpy(), *large, *shares)


def shares_by_class(teachers: dict, packed, targets: Sequence[int], limit: int = 20) -> pd.DataFrame:
    """Shares of image and label in the score of classes, for each image that shows them: method, class, index, image_share, label_share.

    ``teachers`` {name: (network, label noise)}, ``targets`` indices of classes; of each class the first ``limit`` images with
    at least ``MIN_PIXELS`` pixels of it.
    """
    rows = []
    for name, (model, noise) in teachers.items():
        cam = InputLayerCAM(model)
        for c in targets:
            shown = [i for i, label in enumerate(packed.labels) if (np.asarray(label) == c).sum() >= MIN_PIXELS]
            for i in shown[:limit]:
                found = layercam(model, packed.images[i], packed.labels[i], noise, c, cam)
                rows.append((name, packed.classes[c], i, found.image_share, found.label_share))
    frame = pd.DataFrame(rows, columns=["method", "class", "index", "image_share", "label_share"])
    return frame.astype({"index": int, "image_share": float, "label_share": float})


ABLATIONS = {
    "image and label": lambda x: x,
    "label only": lambda x: torch.cat([x[:, :3].mean((2, 3), keepdim=True).expand_as(x[:, :3]), x[:, 3:]], 1),
    "image only": lambda x: torch.cat([x[:, :3], torch.zeros_like(x[:, 3:])], 1),
}


def input_ablation(model: nn.Module, packed, label_noise: Callable, seed: int = 0) -> pd.DataFrame:
    """mIoU in [0, 1] of a 4-channel network with both inputs, with each image as its mean colour, with the label zero.

    Columns: input, miou, drop (from both inputs, same unit). All three see the same draws of label noise.
    """
    classes = len(packed.classes)
    counts = {name: torch.zeros(classes, classes, dtype=torch.int64) for name in ABLATIONS}
    with evaluating(model) as device:
        for start, images, labels in batches(packed, 4):
            x = network_input(images, labels, label_noise, seed + start).to(device)
            for name, replace in ABLATIONS.items():
                predicted = _Logits(model)(replace(x)).max(1).indices.cpu()  # that of argmax, many times faster
                counts[name] += confusion_matrix(predicted, labels, classes)
    miou = [scores(count)["miou"] for count in counts.values()]
    return pd.DataFrame({"input": list(counts), "miou": miou, "drop": [miou[0] - m for m in miou]})


@styled
def layercam_figure(rows: dict[str, Attribution], target: str = ""):
    """One row per teacher: image, label input, LayerCAM of the image branch and of the label branch with their shares.

    Both branches of a row have one colour scale, up to the 99.5th percentile of the two maps together (LayerCAM has few
    very high pixels); rows have their own, since the scores of two networks have no common unit.
    """
    first = next(iter(rows.values())).image
    height = 2.7 * first.shape[0] / first.shape[1] + 0.45
    figure, grid = subplots(len(rows), 4, figsize=(11, height * len(rows) + 0.4), squeeze=False)
    for axes, (name, found) in zip(grid, rows.items()):
        top = float(np.percentile(np.stack([found.image_map, found.label_map]), 99.5)) or 1.0
        for axis, cell in zip(axes, (found.image, found.label_input, found.image_map, found.label_map)):
            draw_map(axis, cell, None if cell is found.image or cell is found.label_input else (0.0, top))
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[0].set_ylabel(name)
        shares = (f"from the image: {found.image_share:.0%}", f"from the label: {found.label_share:.0%}")
        for axis, title in zip(axes, ("image", "label input", *shares)):
            axis.set_title(title)
    name = f", class {target}" if target else ""
    figure.suptitle(f"LayerCAM of the first convolution{name}: share of the total by input", fontsize=10)
    said = f"From the image{name}: {listed([f'{teacher} {100 * found.image_share:.0f} %' for teacher, found in rows.items()], 12)}."
    return tell(figure, "LayerCAM maps of each teacher's image and label branch", said)

"""Photometric distortion of a batch: brightness, contrast, saturation and hue, as mmseg's recipes have it.

Each is done with probability one half, in this order, contrast before or after the two others. mmseg rounds to whole
grey levels (and to whole HSV values) after each; here nothing is rounded, only kept within [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from segkd.device import send

BRIGHTNESS = 32 / 255  # largest shift up or down
FACTORS = (0.5, 1.5)  # of contrast and of saturation
HUE = 18  # steps of two degrees; -18 ... 17 are drawn, as there


def distort(images: Tensor, numbers: Tensor) -> Tensor:
    """Images (B, 3, h, w) in [0, 1], changed in place; ``numbers`` (B, 9) in [0, 1), on any device."""
    shift, contrast, early, saturation, turn = (
        value[:, None, None, None] for value in send(torch.stack(strengths(numbers)), images.device).to(images.dtype)
    )
    images.add_(shift).clamp_(0, 1)
    images.mul_(torch.where(early > 0, contrast, 1)).clamp_(0, 1)
    images.copy_(_colour(images, saturation, turn))
    return images.mul_(torch.where(early > 0, 1, contrast)).clamp_(0, 1)


def strengths(numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(B,) each: brightness shift, contrast factor, 1 if contrast comes first, saturation factor, hue turn in degrees."""
    on = numbers[:, [0, 3, 5, 7]] < 0.5
    low, high = FACTORS
    shift = torch.where(on[:, 0], (2 * numbers[:, 1] - 1) * BRIGHTNESS, 0)
    contrast = torch.where(on[:, 1], low + (high - low) * numbers[:, 4], 1)
    saturation = torch.where(on[:, 2], low + (high - low) * numbers[:, 6], 1)
    turn = torch.where(on[:, 3], 2 * ((2 * HUE * numbers[:, 8]).floor() - HUE), 0)
    return shift, contrast, (numbers[:, 2] < 0.5).double(), saturation, turn


def _colour(images: Tensor, saturation: Tensor, turn: Tensor) -> Tensor:
    """HSV with the saturation times a factor and the hue turned by degrees, back in RGB."""
    red, green, blue = images.split(1, dim=1)
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - least
    safe = chroma.clamp(min=1e-12)  # grey: the differences are zero, and so is the hue
    from_red, from_green, from_blue = (green - blue) / safe, (blue - red) / safe + 2, (red - green) / safe + 4
    sextant = torch.where(value == red, from_red, torch.where(value == green, from_green, from_blue)) + turn / 60
    chroma = torch.minimum(chroma * saturation, value)
    place = (sextant + torch.arange(5.0, 0.0, -2.0, device=images.device).view(1, 3, 1, 1)).remainder_(6)
    return value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)

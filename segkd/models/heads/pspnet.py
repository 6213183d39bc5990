"""PSPNet: the encoder's last map beside its means over bins of four sizes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segkd.models.heads.base import Head, Maps, Plan
from segkd.models.layers import bilinear, conv_bn_relu, image_mean


class PSPHead(Head):
    """Pyramid pooling over 1, 2, 3, 6 bins, a quarter of the channels each, beside the input; one 3x3; classifier."""

    BINS = (2, 3, 6)
    cirkd = Head.cirkd | {
        "head.psp.conv1.": "head.pooled.", **{f"head.psp.conv{n + 2}.": f"head.levels.{n}." for n in (0, 1, 2)},
    }  # fmt: skip

    def __init__(self, plan: Plan):
        super().__init__(plan)
        in_channels = plan.maps[-1]
        quarter = max(1, in_channels // 4)
        self.pooled = conv_bn_relu(in_channels, quarter)
        self.bins = nn.ModuleList(nn.AdaptiveAvgPool2d(bins) for bins in self.BINS)
        self.levels = nn.ModuleList(conv_bn_relu(in_channels, quarter) for _ in self.BINS)
        self.block = conv_bn_relu(in_channels + 4 * quarter, plan.channels, 3)

    def embed(self, maps: Maps) -> Tensor:
        x, size = maps[-1], maps[-1].shape[-2:]
        parts = [x, self.pooled(image_mean(x)).expand(-1, -1, *size)]
        parts += [bilinear(level(pool(x)), size) for pool, level in zip(self.bins, self.levels)]
        return self.block(torch.cat(parts, dim=1))

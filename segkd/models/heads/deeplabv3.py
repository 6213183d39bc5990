"""DeepLabV3 and its heir DeepLabV3+: an atrous spatial pyramid over the encoder's last map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segkd.models.heads.base import Head, Maps, Plan
from segkd.models.layers import bilinear, conv_bn_relu, image_mean, scaled


class ASPPHead(Head):
    """Atrous spatial pyramid pooling (1x1, three dilated 3x3, image pooling) and 1x1 fusion with dropout 0.5.

    Rates are 12/24/36 at output stride 8 and shrink with a larger stride, so that they mean the same pixels.
    """

    def __init__(self, plan: Plan):
        super().__init__(plan)
        in_channels, channels = plan.maps[-1], plan.channels
        rates = [rate * 8 // plan.output_stride for rate in (12, 24, 36)]
        branches = [conv_bn_relu(in_channels, channels)]
        branches += [conv_bn_relu(in_channels, channels, 3, rate) for rate in rates]
        self.branches = nn.ModuleList(branches)
        self.pooled = conv_bn_relu(in_channels, channels)
        self.project = nn.Sequential(*conv_bn_relu(5 * channels, channels), nn.Dropout(0.5))

    def pyramid(self, x: Tensor) -> Tensor:
        """The encoder's last map (B, in, h, w) -> (B, A, h, w)."""
        pooled = self.pooled(image_mean(x)).expand(-1, -1, *x.shape[-2:])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1))


class DeepLabV3Head(ASPPHead):
    """ASPP, one 3x3, classifier."""

    cirkd = Head.cirkd | {
        "head.aspp.b0.": "head.branches.0.", **{f"head.aspp.b{n}.block.": f"head.branches.{n}." for n in (1, 2, 3)},
        "head.aspp.b4.gap.1.": "head.pooled.0.", "head.aspp.b4.gap.2.": "head.pooled.1.", "head.aspp.project.": "head.project.",
    }  # fmt: skip

    def __init__(self, plan: Plan):
        super().__init__(plan)
        self.block = conv_bn_relu(plan.channels, plan.channels, 3)

    def embed(self, maps: Maps) -> Tensor:
        return self.block(self.pyramid(maps[-1]))


class DeepLabV3PlusHead(ASPPHead):
    """DeepLabV3+ (Chen et al., 2018): ASPP, brought to stride 4, beside the first map cut to 48 channels; two 3x3; classifier.

    Plain convolutions, as in the paper's study with ResNet (sections 3 and 4.1; the separable ones are Xception's).
    """

    def __init__(self, plan: Plan):
        super().__init__(plan)
        self.output_stride = 4
        low = scaled(48, plan.width)
        self.low = conv_bn_relu(plan.maps[0], low)
        first = conv_bn_relu(plan.channels + low, plan.channels, 3)
        self.block = nn.Sequential(first, conv_bn_relu(plan.channels, plan.channels, 3))

    def embed(self, maps: Maps) -> Tensor:
        low = self.low(maps[0])
        return self.block(torch.cat([bilinear(self.pyramid(maps[-1]), low.shape[-2:]), low], dim=1))

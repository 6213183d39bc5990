"""DeepLabV3+ (Chen et al., 2018): DeepLabV3's pyramid, sharpened by a decoder with the encoder's first map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segkd.models.backbone import bilinear, scaled
from segkd.models.heads import ASPPHead, Plan, conv_bn_relu


class DeepLabV3PlusHead(ASPPHead):
    """ASPP, brought to stride 4, beside the first map cut to 48 channels; two 3x3; classifier.

    Plain convolutions, as in the paper's study with ResNet (sections 3 and 4.1; the separable ones are Xception's).
    """

    def __init__(self, plan: Plan):
        super().__init__(plan)
        self.output_stride = 4
        low = scaled(48, plan.width)
        self.low = conv_bn_relu(plan.maps[0], low)
        first = conv_bn_relu(plan.channels + low, plan.channels, 3)
        self.block = nn.Sequential(first, conv_bn_relu(plan.channels, plan.channels, 3))

    def embed(self, maps: tuple[Tensor, ...]) -> Tensor:
        low = self.low(maps[0])
        return self.block(torch.cat([bilinear(self.pyramid(maps[-1]), low.shape[-2:]), low], dim=1))

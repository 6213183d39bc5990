"""STDC's head (Fan et al., CVPR 2021): BiSeNet's context path, and heads for training; its encoder is `segkd.models.encoders.stdc`.

Written from the description of both parts; code read: MichaelFan01/STDC-Seg@7d3fa79 models/model_stages.py, and
@1f4160b nets/stdcnet.py (block widths, depthwise step, nearest upsampling, Kaiming fan out in the encoder); mmsegmentation's
STDC, whose STDC2 without ImageNet weights is LAD's baseline. With the paper's classifier the encoders have the paper's 8.44 and
12.47 million parameters; their 806 and 1437 million multiply-adds at 224x224 stand beside its 813 and 1446 million FLOPs
(ours are those of convolutions and linear layers; what it counts beyond them is not said). LAD prints no cost of STDC.
Differences: one auxiliary segmentation head, on the refined 1/16 map brought to 1/8, where the paper has a second one on
the refined 1/32 map at 1/16; it weighs what every auxiliary head of a study does (0.4; there 1 each); the task loss is
plain cross-entropy (there: hard pixels only); dropout 0.1 before every classifier (mmsegmentation; none in the released
code); the classifier has a bias (mmsegmentation; none in the released code); no ImageNet weights are known to timm.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.models.heads.base import Head, Maps, Plan, Said
from segkd.models.layers import conv_bn_relu, image_mean, scaled


class AttentionRefinement(nn.Module):
    """A 3x3 convolution whose channels are weighed by what the whole image shows in them (BiSeNet's ARM)."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.block = conv_bn_relu(in_channels, channels, 3)
        self.pooled = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return x * self.pooled(image_mean(x))


class ContextPath(nn.Module):
    """Maps at 1/16 and 1/32, refined and added up from the image's mean downwards, brought to the 1/8 grid."""

    def __init__(self, maps: tuple[int, int], channels: int):
        super().__init__()
        self.pooled = conv_bn_relu(maps[1], channels)
        self.refine = nn.ModuleList(AttentionRefinement(n, channels) for n in maps)
        self.smooth = nn.ModuleList(conv_bn_relu(channels, channels, 3) for _ in maps)

    def forward(self, maps: Maps) -> Tensor:
        """The encoder's maps to the context (B, channels, h, w) on the grid of the second."""
        context = self.pooled(image_mean(maps[3]))
        for index in (1, 0):
            finer = maps[index + 1].shape[-2:]
            context = self.refine[index](maps[index + 2]) + context
            context = self.smooth[index](F.interpolate(context, finer, mode="nearest"))
        return context


class FeatureFusion(nn.Module):
    """Joins maps by a 1x1 convolution and adds what its channel attention picks (BiSeNet's FFM)."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.block = conv_bn_relu(in_channels, channels)
        down = nn.Conv2d(channels, max(1, channels // 4), 1, bias=False)
        up = nn.Conv2d(max(1, channels // 4), channels, 1, bias=False)
        self.attention = nn.Sequential(down, nn.ReLU(inplace=True), up, nn.Sigmoid())

    def forward(self, *maps: Tensor) -> Tensor:
        x = self.block(torch.cat(maps, dim=1))
        return x + x * self.attention(image_mean(x))


class STDCHead(Head):
    """Context path, fusion with the encoder's 1/8 map, a 3x3 convolution, classifier; logits at 1/8.

    The auxiliary head reads the context; the detail head the encoder's 1/8 map, and says where labels change.
    """

    def __init__(self, plan: Plan):
        super().__init__(plan)
        context = scaled(128, plan.width)
        self.context = ContextPath(plan.maps[2:], context)
        self.fuse = FeatureFusion(plan.maps[1] + context, plan.channels)
        self.block = conv_bn_relu(plan.channels, plan.channels, 3)

    @staticmethod
    def make_aux(plan: Plan) -> nn.Module:
        return small_head(scaled(128, plan.width), plan.classes, plan.width)

    @staticmethod
    def make_detail(plan: Plan) -> nn.Module:
        return small_head(plan.maps[1], 1, plan.width)

    def forward(self, maps: Maps, aux_head: nn.Module | None = None) -> Said:
        context = self.context(maps)
        feature = self.dropout(self.block(self.fuse(maps[1], context)))
        return self.classifier(feature), None if aux_head is None else aux_head(context), feature

    def pooled_parts(self) -> list[nn.Module]:
        return [self.context.pooled, *(part.pooled for part in self.context.refine)]


def small_head(in_channels: int, out_channels: int, width: float) -> nn.Sequential:
    """A head for training: a 3x3 convolution to 64 channels, dropout, classifier."""
    middle = scaled(64, width)
    return nn.Sequential(*conv_bn_relu(in_channels, middle, 3), nn.Dropout(0.1), nn.Conv2d(middle, out_channels, 1))

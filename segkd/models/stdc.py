"""STDC networks (Fan et al., CVPR 2021): an encoder of short dense blocks, BiSeNet's context path, heads for training.

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

from segkd.models.backbone import Encoder, scaled
from segkd.models.heads import Head, Plan, conv_bn_relu
from segkd.registry import UserError

BLOCKS = {"stdc1": (2, 2, 2), "stdc2": (4, 5, 3)}  # at strides 8, 16 and 32


class STDCBlock(nn.Module):
    """Four convolutions in a row, 1x1 and then 3x3, and all their outputs side by side: a half, quarter, eighth, eighth.

    With stride 2 the first output is brought down twice: by a depthwise 3x3 convolution on its way to the second, by
    average pooling on its way to the end. ``channels`` is a multiple of 8.
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        half, quarter, eighth = channels // 2, channels // 4, channels // 8
        self.first = conv_bn_relu(in_channels, half)
        self.down, self.skip = nn.Identity(), nn.Identity()
        if stride == 2:
            depthwise = nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False)
            self.down, self.skip = nn.Sequential(depthwise, nn.BatchNorm2d(half)), nn.AvgPool2d(3, 2, 1)
        widths = zip((half, quarter, eighth), (quarter, eighth, eighth))
        self.others = nn.ModuleList(conv_bn_relu(before, after, 3) for before, after in widths)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        parts, x = [self.skip(first)], self.down(first)
        for block in self.others:
            x = block(x)
            parts.append(x)
        return torch.cat(parts, dim=1)


class STDCEncoder(Encoder):
    """Two strided 3x3 convolutions (32 and 64 channels) and three stages of `STDCBlock`, 256, 512 and 1024 wide.

    The maps are the second convolution's output and those of the stages, at strides 4, 8, 16 and 32.
    """

    output_stride = 8
    smallest = 32  # one cell at stride 32

    def __init__(self, name: str, width: float, output_stride: int):
        super().__init__()
        if output_stride != 8:  # what create_model passes when nothing was asked for
            raise UserError(f"create_model: output_stride={output_stride}; {name} always has 8, leave it out")
        first, second = scaled(32, width), scaled(64, width)
        self.stem = nn.Sequential(conv_bn_relu(3, first, 3, stride=2), conv_bn_relu(first, second, 3, stride=2))
        self.channels = (second, *(8 * scaled(n // 8, width) for n in (256, 512, 1024)))
        sizes = zip(BLOCKS[name], self.channels, self.channels[1:])
        self.stages = nn.ModuleList(_stage(blocks, before, after) for blocks, before, after in sizes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(self.layer(stage, maps[-1]))
        return tuple(maps)


def _stage(blocks: int, in_channels: int, channels: int) -> nn.Sequential:
    """The first block halves the size."""
    rest = (STDCBlock(channels, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(STDCBlock(in_channels, channels, 2), *rest)


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

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
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

    def forward(
        self, maps: tuple[Tensor, ...], aux_head: nn.Module | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        context = self.context(maps)
        feature = self.dropout(self.block(self.fuse(maps[1], context)))
        return self.classifier(feature), None if aux_head is None else aux_head(context), feature

    def pooled_parts(self) -> list[nn.Module]:
        return [self.context.pooled, *(part.pooled for part in self.context.refine)]


def small_head(in_channels: int, out_channels: int, width: float) -> nn.Sequential:
    """A head for training: a 3x3 convolution to 64 channels, dropout, classifier."""
    middle = scaled(64, width)
    return nn.Sequential(*conv_bn_relu(in_channels, middle, 3), nn.Dropout(0.1), nn.Conv2d(middle, out_channels, 1))


def image_mean(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, 1, 1)."""
    return x.mean((2, 3), keepdim=True)

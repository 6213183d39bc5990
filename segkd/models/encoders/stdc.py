"""STDC's encoder of short dense blocks; `segkd.models.heads.stdc` has the rest, the source and what differs from it."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from segkd.models.encoders.base import Encoder
from segkd.models.heads.stdc import STDCHead
from segkd.models.layers import conv_bn_relu, scaled
from segkd.models.zoo import EncoderSpec, register


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

    def __init__(self, blocks: tuple[int, ...], width: float, output_stride: int):
        super().__init__()
        first, second = scaled(32, width), scaled(64, width)
        self.stem = nn.Sequential(conv_bn_relu(3, first, 3, stride=2), conv_bn_relu(first, second, 3, stride=2))
        self.channels = (second, *(8 * scaled(n // 8, width) for n in (256, 512, 1024)))
        sizes = zip(blocks, self.channels, self.channels[1:])
        self.stages = nn.ModuleList(_stage(*size) for size in sizes)
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


for _name, _blocks in (("stdc1", (2, 2, 2)), ("stdc2", (4, 5, 3))):  # at strides 8, 16 and 32
    register(_name, EncoderSpec(partial(STDCEncoder, _blocks), {"stdc": (STDCHead, 256)}, aux=True))

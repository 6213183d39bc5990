"""Layers that encoders and heads share, and what is done to layers of a network that is there already."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LABEL_INIT_STD = 0.1  # LAD, released code: the slices of the first convolution that read more than RGB are N(0, 0.1^2)


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded, at least 4."""
    return max(4, int(channels * width + 0.5))


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``x`` (B, C, h, w) at ``size``, corners aligned as everywhere in these networks."""
    return x if x.shape[-2:] == tuple(size) else F.interpolate(x, size, mode="bilinear", align_corners=True)


def image_mean(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, 1, 1)."""
    return x.mean((2, 3), keepdim=True)


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int = 1, dilation: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (under ``stride``, rounded up), batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class Attention(nn.Module):
    """The layers of an attention over maps of ``channels``: query and key two 1x1 each, value and out one, ``inner`` wide."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.query = nn.Sequential(conv_bn_relu(channels, inner), conv_bn_relu(inner, inner))
        self.key = nn.Sequential(conv_bn_relu(channels, inner), conv_bn_relu(inner, inner))
        self.value = conv_bn_relu(channels, inner)
        self.out = conv_bn_relu(inner, channels)


@torch.no_grad()
def inflate(conv: nn.Conv2d, in_channels: int) -> None:
    """Let ``conv`` read ``in_channels`` instead of 3: its RGB slices stay, the new ones are N(0, 0.1^2) (LAD)."""
    shape = (conv.out_channels, in_channels - conv.in_channels, *conv.kernel_size)
    extra = torch.randn(shape, device=conv.weight.device, dtype=conv.weight.dtype) * LABEL_INIT_STD
    conv.weight = nn.Parameter(torch.cat([conv.weight, extra], dim=1))
    conv.in_channels = in_channels


def replace_modules(network: nn.Module, replaced: dict[nn.Module, nn.Module]) -> None:
    """Every module that is a key of ``replaced`` by its value, wherever it is used, in place."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child in replaced:
                setattr(parent, name, replaced[child])

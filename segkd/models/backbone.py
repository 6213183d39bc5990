"""What every encoder shares: its maps, its first convolution and how that one learns to read further channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.models.recompute import recomputed

LABEL_INIT_STD = 0.1  # LAD, released code: the slices of the first convolution that read more than RGB are N(0, 0.1^2)


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded, at least 4."""
    return max(4, int(channels * width + 0.5))


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``x`` (B, C, h, w) at ``size``, corners aligned as everywhere in these networks."""
    return x if x.shape[-2:] == tuple(size) else F.interpolate(x, size, mode="bilinear", align_corners=True)


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


class Encoder(nn.Module):
    """A backbone: forward (B, in_channels, H, W) -> four maps, shallow to deep, with ``channels`` channels.

    ``output_stride``: pixels per cell of the grid that heads work on; ``smallest``: shortest side of an image.
    ``grad_checkpointing``: blocks keep nothing of what they compute inside for the backward pass (see `recomputed`).
    """

    channels: tuple[int, ...]
    output_stride: int
    smallest: int
    grad_checkpointing = False

    @property
    def first_conv(self) -> nn.Conv2d:
        """The convolution that reads the image."""
        return next(m for m in self.modules() if isinstance(m, nn.Conv2d))

    def block(self, block: nn.Module, x: Tensor) -> Tensor:
        """``block(x)``, as ``grad_checkpointing`` has it."""
        return recomputed(block, x) if self.grad_checkpointing else block(x)

    def layer(self, blocks: nn.Sequential, x: Tensor) -> Tensor:
        """``blocks(x)``, as ``grad_checkpointing`` has it, block by block."""
        if not self.grad_checkpointing:
            return blocks(x)
        for block in blocks:
            x = recomputed(block, x)
        return x


class BlocksEncoder(Encoder):
    """A network of timm's efficientnet family: a stem (``conv_stem``, ``bn1``) and ``blocks``, whose ``TAPS`` are the maps."""

    TAPS = (1, 2, 4, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.bn1(self.conv_stem(x))
        stages = []
        for index, blocks in enumerate(self.blocks):
            x = self.layer(blocks, x)
            if index in self.TAPS:
                stages.append(x)
        return tuple(stages)


class StridedPointwise(nn.Conv2d):
    """A 1x1 convolution with a stride, done as subsampling and a plain 1x1: the same values, parameters and cost.

    oneDNN's strided 1x1 kernel writes out of bounds (crash or wrong gradients) in channels_last with under 16 channels,
    which narrow networks have (oneDNN issue 6035, seen with torch 2.15).
    """

    @classmethod
    def of(cls, conv: nn.Conv2d) -> StridedPointwise:
        """The same convolution, sharing its weight."""
        shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride)
        twin = cls(*shape, bias=False, device="meta")
        twin.weight = conv.weight
        return twin

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight, self.bias)

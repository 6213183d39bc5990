"""What every encoder shares: its maps, and how its blocks run with and without gradient checkpointing."""

from __future__ import annotations

from torch import Tensor, nn

from segkd.models.recompute import recomputed


class Encoder(nn.Module):
    """A backbone: forward (B, in_channels, H, W) -> four maps, shallow to deep, with ``channels`` channels.

    ``name``: as in `ENCODERS`, set by `create_model`. ``output_stride``: pixels per cell of the grid that heads work on;
    ``smallest``: shortest side of an image. ``grad_checkpointing``: blocks keep nothing of what they compute inside for
    the backward pass (see `recomputed`).
    """

    name = ""
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
    """A network ``net`` of timm's efficientnet family without its last convolution; parameters keep timm's names.

    The maps are the outputs of the blocks ``TAPS``, the last ones under strides 4, 8, 16 and 32.
    """

    TAPS = (1, 2, 4, 6)

    def __init__(self, net: nn.Module, output_stride: int):
        super().__init__()
        self.conv_stem, self.bn1, self.blocks = net.conv_stem, net.bn1, net.blocks
        self.channels = tuple(net.blocks[tap][-1].bn3.num_features for tap in self.TAPS)
        self.output_stride, self.smallest = output_stride, 4 * output_stride

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.bn1(self.conv_stem(x))
        stages = []
        for index, blocks in enumerate(self.blocks):
            x = self.layer(blocks, x)
            if index in self.TAPS:
                stages.append(x)
        return tuple(stages)

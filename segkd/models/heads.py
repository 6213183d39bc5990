"""What heads share, and those of DeepLabV3, PSPNet and FCN with the dropouts of the papers' released code."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segkd.models.backbone import bilinear


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int = 1, dilation: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (under ``stride``, rounded up), batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


@dataclass(frozen=True)
class Plan:
    """What a head is built for.

    ``maps``: channels of the encoder's maps, shallow to deep; ``channels``: width A of the feature; ``output_stride``:
    of the encoder; ``width``: factor on the widths that an architecture fixes.
    """

    maps: tuple[int, ...]
    channels: int
    classes: int
    output_stride: int
    width: float = 1.0


class AuxHead(nn.Sequential):
    """Auxiliary head: one 3x3 to a quarter of the channels, dropout 0.1, classifier."""

    def __init__(self, in_channels: int, classes: int):
        quarter = max(1, in_channels // 4)
        super().__init__(*conv_bn_relu(in_channels, quarter, 3), nn.Dropout(0.1), nn.Conv2d(quarter, classes, 1))


class Head(nn.Module):
    """A head: forward (encoder maps, auxiliary head or None) -> (logits, auxiliary logits or None, feature).

    Logits (B, C, h, w) have a cell every ``output_stride`` pixels. The feature (B, A, h, w) is what enters the last 1x1
    ``classifier``, so in training it has passed the dropout. ``pooled`` is the branch with one value per image and
    channel, None if there is none. ``aux_needed``: the head cannot do without its auxiliary head. ``align_corners``: how
    its scores are brought to another size.
    """

    aux_needed = False
    align_corners = True

    def __init__(self, plan: Plan, dropout: float = 0.1):
        super().__init__()
        self.output_stride = plan.output_stride
        self.pooled = None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(plan.channels, plan.classes, 1)

    @staticmethod
    def natural_width(maps: tuple[int, ...]) -> int:
        """Width of the feature where the architecture does not fix it: that of all maps together."""
        return sum(maps)

    @staticmethod
    def make_aux(plan: Plan) -> nn.Module:
        """The auxiliary head that goes with this head: on the encoder's last map but one."""
        return AuxHead(plan.maps[-2], plan.classes)

    @staticmethod
    def make_detail(plan: Plan) -> nn.Module | None:
        """The detail head, on the encoder's second map, None where the architecture has none."""
        return None

    def aux_map(self, maps: tuple[Tensor, ...]) -> Tensor:
        """What the auxiliary head reads."""
        return maps[-2]

    def embed(self, maps: tuple[Tensor, ...]) -> Tensor:
        """The map (B, A, h, w) before dropout."""
        raise NotImplementedError

    def forward(
        self, maps: tuple[Tensor, ...], aux_head: nn.Module | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        feature = self.dropout(self.embed(maps))
        logits = self.classifier(feature)
        return logits, None if aux_head is None else aux_head(self.aux_map(maps)), feature

    def pooled_parts(self) -> list[nn.Module]:
        """The branches with one value per image and channel."""
        return [] if self.pooled is None else [self.pooled]

    def single_image_norm(self) -> nn.Module | None:
        """The batch norm that cannot train on one image, None if there is none or it is frozen or synchronised."""
        norms = [m for part in self.pooled_parts() for m in part.modules() if isinstance(m, nn.BatchNorm2d)]
        return next((norm for norm in norms if norm.training), None)


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
        pooled = self.pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1))


class DeepLabV3Head(ASPPHead):
    """ASPP, one 3x3, classifier."""

    def __init__(self, plan: Plan):
        super().__init__(plan)
        self.block = conv_bn_relu(plan.channels, plan.channels, 3)

    def embed(self, maps: tuple[Tensor, ...]) -> Tensor:
        return self.block(self.pyramid(maps[-1]))


class PSPHead(Head):
    """Pyramid pooling over 1, 2, 3, 6 bins, a quarter of the channels each, beside the input; one 3x3; classifier."""

    BINS = (2, 3, 6)

    def __init__(self, plan: Plan):
        super().__init__(plan)
        in_channels = plan.maps[-1]
        quarter = max(1, in_channels // 4)
        self.pooled = conv_bn_relu(in_channels, quarter)
        self.bins = nn.ModuleList(nn.AdaptiveAvgPool2d(bins) for bins in self.BINS)
        self.levels = nn.ModuleList(conv_bn_relu(in_channels, quarter) for _ in self.BINS)
        self.block = conv_bn_relu(in_channels + 4 * quarter, plan.channels, 3)

    def embed(self, maps: tuple[Tensor, ...]) -> Tensor:
        x, size = maps[-1], maps[-1].shape[-2:]
        parts = [x, self.pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *size)]
        parts += [bilinear(level(pool(x)), size) for pool, level in zip(self.bins, self.levels)]
        return self.block(torch.cat(parts, dim=1))


class FCNHead(Head):
    """Two 3x3 convolutions and a classifier: mmsegmentation's FCN-D8 head without joining the encoder's map again."""

    def __init__(self, plan: Plan):
        super().__init__(plan)
        first = conv_bn_relu(plan.maps[-1], plan.channels, 3)
        self.block = nn.Sequential(first, conv_bn_relu(plan.channels, plan.channels, 3))

    def embed(self, maps: tuple[Tensor, ...]) -> Tensor:
        return self.block(maps[-1])

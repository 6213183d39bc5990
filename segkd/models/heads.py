"""Heads: DeepLabV3, PSPNet, FCN and the auxiliary head, with the widths and dropouts of the papers' released code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, ReLU."""
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False
    )
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class Head(nn.Module):
    """A head: forward (B, in, h, w) -> (logits (B, C, h, w), feature (B, A, h, w)).

    The feature is what enters the last 1x1 ``classifier``, so in training it has passed the dropout. ``pooled`` is the
    branch with one value per image and channel, None if there is none.
    """

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.channels = channels
        self.pooled = None
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def embed(self, x: Tensor) -> Tensor:
        """The map (B, A, h, w) before dropout."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.dropout(self.embed(x))
        return self.classifier(feature), feature

    def single_image_norm(self) -> nn.Module | None:
        """The batch norm that cannot train on one image, None if there is none or it is frozen or synchronised."""
        norms = [] if self.pooled is None else [m for m in self.pooled.modules() if isinstance(m, nn.BatchNorm2d)]
        return next((norm for norm in norms if norm.training), None)


class DeepLabV3Head(Head):
    """ASPP (1x1, three dilated 3x3, image pooling), 1x1 fusion with dropout 0.5, one 3x3, classifier.

    Rates are 12/24/36 at output stride 8 and shrink with a larger stride, so that they mean the same pixels.
    """

    def __init__(self, in_channels: int, channels: int, classes: int, output_stride: int):
        super().__init__(channels, classes)
        rates = [rate * 8 // output_stride for rate in (12, 24, 36)]
        branches = [conv_bn_relu(in_channels, channels)]
        branches += [conv_bn_relu(in_channels, channels, 3, rate) for rate in rates]
        self.branches = nn.ModuleList(branches)
        self.pooled = conv_bn_relu(in_channels, channels)
        self.project = nn.Sequential(*conv_bn_relu(5 * channels, channels), nn.Dropout(0.5))
        self.block = conv_bn_relu(channels, channels, 3)

    def embed(self, x: Tensor) -> Tensor:
        pooled = self.pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        return self.block(self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1)))


class PSPHead(Head):
    """Pyramid pooling over 1, 2, 3, 6 bins, a quarter of the channels each, beside the input; one 3x3; classifier."""

    BINS = (2, 3, 6)

    def __init__(self, in_channels: int, channels: int, classes: int, output_stride: int):
        super().__init__(channels, classes)
        quarter = max(1, in_channels // 4)
        self.pooled = conv_bn_relu(in_channels, quarter)
        self.bins = nn.ModuleList(nn.AdaptiveAvgPool2d(bins) for bins in self.BINS)
        self.levels = nn.ModuleList(conv_bn_relu(in_channels, quarter) for _ in self.BINS)
        self.block = conv_bn_relu(in_channels + 4 * quarter, channels, 3)

    def embed(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        maps = [x, self.pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *size)]
        for pool, level in zip(self.bins, self.levels):
            pooled = level(pool(x))
            maps.append(F.interpolate(pooled, size, mode="bilinear", align_corners=True))
        return self.block(torch.cat(maps, dim=1))


class FCNHead(Head):
    """Two 3x3 convolutions and a classifier: mmsegmentation's FCN-D8 head without joining the encoder's map again."""

    def __init__(self, in_channels: int, channels: int, classes: int, output_stride: int):
        super().__init__(channels, classes)
        self.block = nn.Sequential(conv_bn_relu(in_channels, channels, 3), conv_bn_relu(channels, channels, 3))

    def embed(self, x: Tensor) -> Tensor:
        return self.block(x)


class AuxHead(nn.Sequential):
    """Auxiliary head on the encoder's third map: one 3x3 to a quarter of the channels, dropout 0.1, classifier."""

    def __init__(self, in_channels: int, classes: int):
        quarter = max(1, in_channels // 4)
        super().__init__(*conv_bn_relu(in_channels, quarter, 3), nn.Dropout(0.1), nn.Conv2d(quarter, classes, 1))


HEADS: dict[str, type[Head]] = {"deeplabv3": DeepLabV3Head, "pspnet": PSPHead, "fcn": FCNHead}

# Width A of the feature at width 1 (narrow encoders, bottleneck ResNets): CIRKD's code; FCN as PSPNet.
HEAD_CHANNELS = {"deeplabv3": (128, 256), "pspnet": (128, 512), "fcn": (128, 512)}


def head_channels_of(arch: str, encoder_name: str) -> int:
    """The papers' feature width of ``arch`` on ``encoder_name`` at width 1."""
    return HEAD_CHANNELS[arch][encoder_name in ("resnet50", "resnet101")]

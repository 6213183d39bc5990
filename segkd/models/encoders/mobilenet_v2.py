"""MobileNetV2, dilated, built from timm; its names in torchvision and in CIRKD's code."""

from __future__ import annotations

import re

from torch import nn

from segkd.models.encoders.base import BlocksEncoder
from segkd.models.heads import NARROW
from segkd.models.weights import State
from segkd.models.zoo import EncoderSpec, register


class MobileNetV2Encoder(BlocksEncoder):
    """timm's mobilenetv2_100; the maps have 24, 32, 96 and 320 channels (times ``width``, rounded to 8 as timm does)."""

    def __init__(self, width: float, output_stride: int):
        from timm.models.efficientnet import _gen_mobilenet_v2  # the public entry points fix the channel multiplier

        super().__init__(_gen_mobilenet_v2("mobilenetv2_100", width, num_classes=0, output_stride=output_stride), output_stride)
        for module in self.modules():  # timm's fan out is per group here; the released code's is not
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


# Theirs: features.<n>.conv.<layer>, numbered in groups (torchvision) or flat (CIRKD); timm: blocks.<stage>.<n>.<layer>.
# Module 1 has no expansion, so fewer layers.
STARTS = (1, 2, 4, 7, 11, 14, 17)  # first module of each timm stage
FIRST = ("conv_dw bn1 conv_pw bn2", "0.0 0.1 1 2", "0 1 3 4")
OTHERS = ("conv_pw bn1 conv_dw bn2 conv_pwl bn3", "0.0 0.1 1.0 1.1 2 3", "0 1 3 4 6 7")


def renamed(state: State, what: str) -> tuple[State, bool]:
    """torchvision's and CIRKD's names to timm's."""
    flat = "features.1.conv.3.weight" in state
    layers = {module == 1: dict(zip(row[1 + flat].split(), row[0].split())) for module, row in ((1, FIRST), (2, OTHERS))}

    def ours(key: str) -> str:
        if stem := re.fullmatch(r"features\.0\.([01])\.(\w+)", key):
            return f"{('conv_stem', 'bn1')[int(stem[1])]}.{stem[2]}"
        if not (found := re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)\.(\w+)", key)):
            return key
        module = int(found[1])
        stage = sum(module >= start for start in STARTS) - 1
        return f"blocks.{stage}.{module - STARTS[stage]}.{layers[module == 1].get(found[2], found[2])}.{found[3]}"

    return {ours(key): value for key, value in state.items()}, flat


_beyond = ("conv_head.", "bn2.", "classifier.", "features.18.")
register(
    "mobilenet_v2",
    EncoderSpec(MobileNetV2Encoder, NARROW, aux=False, pretrained="mobilenetv2_100", unused=_beyond, renamed=renamed),
)

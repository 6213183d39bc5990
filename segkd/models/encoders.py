"""Encoders: dilated ResNets with a deep stem and MobileNetV2, built from timm, and the table of all encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from segkd.models.backbone import BlocksEncoder, Encoder, StridedPointwise, scaled
from segkd.models.dinov2 import DINOv2Encoder
from segkd.models.efficientnet_lite import DEPTHS, LITE_INPUT, EfficientNetLiteEncoder
from segkd.models.hrnet import HRNetEncoder
from segkd.models.naming import IMAGENET, Normalisation
from segkd.models.stdc import STDCEncoder
from segkd.registry import unknown

# timm is imported inside the builders: with torchvision behind it, it costs seconds that `import segkd` need not pay.


class ResNetEncoder(Encoder):
    """timm's ResNet with the 64-64-128 stem of three 3x3 convolutions ("v1s"); parameters keep timm's names.

    Convolutions start from Kaiming normal, fan out; batch norms at 1 and 0, the last of a block too.
    """

    def __init__(self, block: str, layers: tuple[int, ...], width: float, output_stride: int):
        super().__init__()
        from timm.models import resnet

        net = resnet.ResNet(
            getattr(resnet, block),
            layers,
            num_classes=0,
            stem_type="deep",
            stem_width=scaled(64, width),
            channels=tuple(scaled(n, width) for n in (64, 128, 256, 512)),
            output_stride=output_stride,
            zero_init_last=False,
        )
        for name in ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(name, getattr(net, name))
        for layer in (self.layer2, self.layer3, self.layer4):
            layer[0].downsample[0] = StridedPointwise.of(layer[0].downsample[0])
        self.channels = tuple(info["num_chs"] for info in net.feature_info[1:])
        self.output_stride, self.smallest = output_stride, 4 * output_stride

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        stages = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = self.layer(layer, x)
            stages.append(x)
        return tuple(stages)


class MobileNetV2Encoder(BlocksEncoder):
    """timm's mobilenetv2_100 without the last 1280-channel convolution; parameters keep timm's names.

    The maps are the last block outputs with 24, 32, 96 and 320 channels (times ``width``, rounded to 8 as timm does).
    """

    def __init__(self, width: float, output_stride: int):
        super().__init__()
        from timm.models.efficientnet import _gen_mobilenet_v2  # the public entry points fix the channel multiplier

        net = _gen_mobilenet_v2("mobilenetv2_100", width, num_classes=0, output_stride=output_stride)
        self.conv_stem, self.bn1, self.blocks = net.conv_stem, net.bn1, net.blocks
        self.channels = tuple(net.blocks[tap][-1].bn3.num_features for tap in self.TAPS)
        self.output_stride, self.smallest = output_stride, 4 * output_stride
        for module in self.modules():  # timm's fan out is per group here; the released code's is not
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@dataclass(frozen=True)
class EncoderSpec:
    """How an encoder is built and what is known of it.

    ``build(width, output_stride)``; ``first``: its first weight; ``aux``: whether its networks have an auxiliary head (in
    the papers: those with a ResNet); ``pretrained``: timm's network of the same layout, or None; ``unused``: prefixes of keys that weights
    have beyond it (a classifier's); ``input``: what it reads unless its weights say otherwise.
    """

    build: Callable[[float, int], Encoder]
    first: str
    aux: bool
    pretrained: str | None
    unused: tuple[str, ...]
    input: Normalisation = IMAGENET


def _hrnet(name: str) -> EncoderSpec:
    classifier = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")
    return EncoderSpec(lambda width, stride: HRNetEncoder(name, width, stride), "conv1.weight", False, name, classifier)


def _resnet(block: str, layers: tuple[int, ...], pretrained: str | None) -> EncoderSpec:
    build = lambda width, stride: ResNetEncoder(block, layers, width, stride)  # noqa: E731
    return EncoderSpec(build, "conv1.0.weight", True, pretrained, ("fc.",))


def _dinov2(name: str, heads: int) -> EncoderSpec:
    build = lambda width, stride: DINOv2Encoder(name, heads, width, stride)  # noqa: E731
    return EncoderSpec(build, "patch_embed.proj.weight", False, f"{name}.lvd142m", ("mask_token",))


def _lite(name: str) -> EncoderSpec:
    build = lambda width, stride: EfficientNetLiteEncoder(name, width, stride)  # noqa: E731
    return EncoderSpec(build, "conv_stem.weight", True, f"tf_{name}", ("conv_head.", "bn2.", "classifier."), LITE_INPUT)


def _stdc(name: str) -> EncoderSpec:
    return EncoderSpec(lambda width, stride: STDCEncoder(name, width, stride), "stem.0.0.weight", True, None, ())


ENCODERS = {
    "resnet18": _resnet("BasicBlock", (2, 2, 2, 2), None),
    "resnet50": _resnet("Bottleneck", (3, 4, 6, 3), "resnet50s"),
    "resnet101": _resnet("Bottleneck", (3, 4, 23, 3), "resnet101s"),
    "mobilenet_v2": EncoderSpec(
        MobileNetV2Encoder, "conv_stem.weight", False, "mobilenetv2_100", ("conv_head.", "bn2.", "classifier.", "features.18.")
    ),
    "hrnet_w18_small": _hrnet("hrnet_w18_small"),
    "hrnet_w18": _hrnet("hrnet_w18"),
    "hrnet_w48": _hrnet("hrnet_w48"),
    "vits14": _dinov2("vit_small_patch14_dinov2", heads=6),
    "vitb14": _dinov2("vit_base_patch14_dinov2", heads=12),
    "stdc1": _stdc("stdc1"),
    "stdc2": _stdc("stdc2"),
    **{name: _lite(name) for name in DEPTHS},
}


def encoder_spec(name: str) -> EncoderSpec:
    """The entry of ``name``; UserError with the nearest name otherwise."""
    if name not in ENCODERS:
        raise unknown("encoder", name, ENCODERS)
    return ENCODERS[name]

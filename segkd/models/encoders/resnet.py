"""Dilated ResNets with a deep stem, built from timm; their names in CIRKD's code, and the layout that does not fit."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from segkd.models.encoders.base import Encoder
from segkd.models.heads import NARROW, WIDE
from segkd.models.heads.deeplabv3 import DeepLabV3Head
from segkd.models.heads.isanet import ISAHead
from segkd.models.layers import scaled
from segkd.models.weights import State
from segkd.models.zoo import EncoderSpec, register
from segkd.registry import UserError

# CIRKD family: conv1, bn1, conv2, ... side by side. Ours and timm's: one sequence, its last batch norm outside.
STEM = {"conv1": "conv1.0", "bn1": "conv1.1", "conv2": "conv1.3", "bn2": "conv1.4", "conv3": "conv1.6", "bn3": "bn1"}


class ResNetEncoder(Encoder):
    """timm's ResNet with the 64-64-128 stem of three 3x3 convolutions ("v1s"); parameters keep timm's names.

    Convolutions start from Kaiming normal, fan out; batch norms at 1 and 0, the last of a block too.
    """

    def __init__(self, block: str, layers: tuple[int, ...], width: float, output_stride: int):
        super().__init__()
        from timm.models import resnet  # here: with torchvision behind it, it costs seconds that `import segkd` need not pay

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
            if layer[0].downsample is not None:  # there is none where stages of the least width are alike
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


def renamed(state: State, what: str) -> tuple[State, bool]:
    """CIRKD's names to timm's; UserError for a stem of one 7x7 convolution."""
    if "conv1.weight" in state and state["conv1.weight"].shape[-1] == 7:
        raise UserError(
            f"{what}: a ResNet with one 7x7 convolution as stem (torchvision's layout) where three 3x3 ones (64-64-128) are needed. "
            "What fits: the CIRKD family's resnet*-imagenet.pth, and for ResNet-50 and 101 'imagenet' (timm's resnet50s, resnet101s)"
        )
    if "conv3.weight" not in state:
        return state, False
    parts = ((*key.rpartition("."), value) for key, value in state.items())
    return {f"{STEM.get(layer, layer)}{dot}{tail}": value for layer, dot, tail, value in parts}, True


for _name, _block, _layers, _heads, _pretrained in (
    ("resnet18", "BasicBlock", (2, 2, 2, 2), NARROW | {"isanet": (ISAHead, 128)}, None),
    ("resnet50", "Bottleneck", (3, 4, 6, 3), WIDE | {"isanet": (ISAHead, 512)}, "resnet50s"),
    ("resnet101", "Bottleneck", (3, 4, 23, 3), WIDE | {"isanet": (ISAHead, 512)}, "resnet101s"),
):
    # 512 channels: the wider heads of CIRKD's later code (22.8 and 79.1 million parameters).
    _all = _heads | {"deeplabv3-512": (DeepLabV3Head, 512)}
    _facts = {"pretrained": _pretrained, "unused": ("fc.",), "renamed": renamed}
    register(_name, EncoderSpec(partial(ResNetEncoder, _block, _layers), _all, aux=True, **_facts))

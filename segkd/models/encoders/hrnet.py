"""HRNet (Wang et al., 2020): a branch of high resolution kept to the end, beside coarser ones that it trades maps with."""

from __future__ import annotations

from functools import partial, reduce

import torch
from torch import Tensor, nn

from segkd.models.encoders.base import Encoder
from segkd.models.heads.fcn import JoinedFCNHead
from segkd.models.heads.ocrnet import OCRHead
from segkd.models.layers import bilinear, scaled
from segkd.models.recompute import recomputed
from segkd.models.zoo import EncoderSpec, register


class HRNetEncoder(Encoder):
    """timm's HRNet without its classification head; parameters keep timm's names.

    The maps are the four branches of the last stage, at strides 4, 8, 16 and 32, n, 2n, 4n, 8n channels wide. Coarse maps
    come up by bilinear resizing to the size of the finer one, as in the segmentation networks, so any size will do
    (timm, for classification: nearest by a factor, multiples of 32 only).
    """

    output_stride = 4
    smallest = 64  # two by two cells at stride 32, so that a single image has a variance there

    def __init__(self, name: str, width: float, output_stride: int):
        super().__init__()
        net = _timm_net(name, width)
        parts = "conv1 bn1 act1 conv2 bn2 act2 layer1 transition1 stage2 transition2 stage3 transition3 stage4"
        for part in parts.split():
            self.add_module(part, getattr(net, part))
        for module in self._exchanges():
            for row, layers in enumerate(module.fuse_layers):
                for layer in layers[row + 1 :]:
                    layer[2] = nn.Identity()  # timm's upsampling; _exchange does it
        self.channels = tuple(net.stage4_cfg["num_channels"])

    def _exchanges(self) -> list[nn.Module]:
        return [*self.stage2, *self.stage3, *self.stage4]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.act2(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x))))))
        x = self.layer(self.layer1, x)
        maps = self._stage(self.stage2, [layer(x) for layer in self.transition1])
        for transition, stage in ((self.transition2, self.stage3), (self.transition3, self.stage4)):
            maps = self._stage(stage, [*maps, transition[-1](maps[-1])])  # the new branch starts from the coarsest
        return tuple(maps)

    def _stage(self, stage: nn.Module, maps: list[Tensor]) -> list[Tensor]:
        for module in stage:
            maps = recomputed(module, maps, _exchange) if self.grad_checkpointing else _exchange(module, maps)
        return maps


def _exchange(module: nn.Module, maps: list[Tensor]) -> list[Tensor]:
    """Each branch goes its way, then becomes the sum of all, brought to its width and size."""
    maps = [branch(x) for branch, x in zip(module.branches, maps)]
    fused = []
    for layers, own in zip(module.fuse_layers, maps):
        parts = [bilinear(layer(x), own.shape[-2:]) for layer, x in zip(layers, maps)]
        fused.append(module.fuse_act(reduce(torch.add, parts)))
    return fused


def _timm_net(name: str, width: float) -> nn.Module:
    from timm.models import hrnet

    config = {key: _scaled_config(value, width) for key, value in hrnet.cfg_cls[name].items()}
    net = hrnet.HighResolutionNet(config, head="none")
    if width != 1:  # timm fixes the stem's second convolution at 64 channels
        stem, first = config["stem_width"], config["stage1"]
        net.conv2 = nn.Conv2d(stem, stem, 3, stride=2, padding=1, bias=False)
        net.bn2 = nn.BatchNorm2d(stem)
        block = hrnet.block_types_dict[first["block_type"]]
        net.layer1 = net._make_layer(block, stem, first["num_channels"][0], first["num_blocks"][0])
        net.init_weights()
    return net


def _scaled_config(value: dict | int, width: float) -> dict | int:
    if not isinstance(value, dict):
        return scaled(value, width)  # the stem's width, the only plain number
    return value | {"num_channels": tuple(scaled(n, width) for n in value["num_channels"])}


for _name in ("hrnet_w18_small", "hrnet_w18", "hrnet_w48"):
    _heads = {"fcn": (JoinedFCNHead, None), "ocrnet": (OCRHead, 512)}
    _beyond = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")
    register(_name, EncoderSpec(partial(HRNetEncoder, _name), _heads, aux=False, pretrained=_name, unused=_beyond))

"""FCN: convolutions on the last map (dilated encoders) or on all maps joined (HRNet, Wang et al., 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segkd.models.heads.base import AuxHead, Head, Maps, Plan
from segkd.models.layers import bilinear, conv_bn_relu


class FCNHead(Head):
    """Two 3x3 convolutions and a classifier: mmsegmentation's FCN-D8 head without joining the encoder's map again."""

    def __init__(self, plan: Plan):
        super().__init__(plan)
        first = conv_bn_relu(plan.maps[-1], plan.channels, 3)
        self.block = nn.Sequential(first, conv_bn_relu(plan.channels, plan.channels, 3))

    def embed(self, maps: Maps) -> Tensor:
        return self.block(maps[-1])


def join_maps(maps: Maps) -> Tensor:
    """All maps at the size of the first, channels side by side."""
    return torch.cat([bilinear(x, maps[0].shape[-2:]) for x in maps], dim=1)


class JoinedFCNHead(Head):
    """One 1x1 over the joined maps, classifier; no dropout. An auxiliary head reads the joined maps too."""

    def __init__(self, plan: Plan):
        super().__init__(plan, dropout=0.0)
        self.block = conv_bn_relu(sum(plan.maps), plan.channels)

    @staticmethod
    def make_aux(plan: Plan) -> nn.Module:
        return AuxHead(sum(plan.maps), plan.classes)

    def aux_map(self, maps: Maps) -> Tensor:
        return join_maps(maps)

    def embed(self, maps: Maps) -> Tensor:
        return self.block(join_maps(maps))

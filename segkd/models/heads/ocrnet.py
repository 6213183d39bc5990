"""OCRNet (object-contextual representations, Yuan et al., 2020) on HRNet's joined maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segkd.models.heads.base import Head, Maps, Plan, Said
from segkd.models.heads.fcn import join_maps
from segkd.models.layers import Attention, conv_bn_relu


class OCRHead(Head):
    """Pixels look at the regions of the objects that a coarse FCN head sees; what they find is joined to them.

    The coarse head is the auxiliary head, trained by its own cross-entropy; gradient also reaches it through the regions.
    """

    aux_needed = True

    def __init__(self, plan: Plan):
        super().__init__(plan, dropout=0.05)
        self.pixels = conv_bn_relu(sum(plan.maps), plan.channels, 3)
        self.attention = ObjectAttention(plan.channels, max(1, plan.channels // 2))
        self.fuse = conv_bn_relu(2 * plan.channels, plan.channels)

    @staticmethod
    def make_aux(plan: Plan) -> nn.Module:
        joined = sum(plan.maps)
        return nn.Sequential(conv_bn_relu(joined, joined), nn.Conv2d(joined, plan.classes, 1))

    def forward(self, maps: Maps, aux_head: nn.Module | None = None) -> Said:
        joined = join_maps(maps)
        coarse = aux_head(joined)
        pixels = self.pixels(joined)
        context = self.attention(pixels, object_regions(pixels, coarse))
        feature = self.dropout(self.fuse(torch.cat([context, pixels], dim=1)))
        return self.classifier(feature), coarse, feature


def object_regions(pixels: Tensor, coarse: Tensor) -> Tensor:
    """Mean pixel of each class, weighted by the softmax over pixels of its coarse scores (Eq. 8): (B, A, C, 1)."""
    weight = coarse.flatten(2).softmax(-1)
    return (pixels.flatten(2) @ weight.mT).unsqueeze(-1)


class ObjectAttention(Attention):
    """Each pixel's mean of the regions, weighted by likeness (Eq. 9 to 11): (B, A, h, w), (B, A, C, 1) -> (B, A, h, w)."""

    def forward(self, pixels: Tensor, regions: Tensor) -> Tensor:
        query = self.query(pixels)
        key, value = self.key(regions).flatten(2), self.value(regions).flatten(2)
        likeness = query.flatten(2).mT @ key * key.shape[1] ** -0.5
        found = value @ likeness.softmax(-1).mT
        return self.out(found.unflatten(2, query.shape[-2:]))

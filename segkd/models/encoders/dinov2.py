"""DINOv2 (Oquab et al., 2023), timm's, frozen, with LoRA (Hu et al., 2022) on its attention."""

from __future__ import annotations

import math
import re
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.models.encoders.base import Encoder
from segkd.models.heads.linear import LinearHead
from segkd.models.layers import replace_modules, scaled
from segkd.models.weights import State
from segkd.models.zoo import EncoderSpec, register
from segkd.registry import UserError

PATCH = 14
GRID = (37, 37)  # of the position embedding: images of 518x518
# LAD (section 4.2) gives neither rank nor place of its adapters; these are peft's defaults, on the projections to query,
# key and value, which timm holds in one layer. The LoRA paper's own study (section 7.2) finds ranks of 4 to 8 enough.
RANK, ALPHA, DROPOUT = 8, 8, 0.0


class DINOv2Encoder(Encoder):
    """timm's ViT/14 with LoRA; parameters keep timm's and peft's names, and only the adapters are trained.

    The maps come from four evenly spaced blocks, the last one among them, each after the network's last layer norm and
    without the class token, at one cell every 14 pixels. Images are resized (bilinear) to the next multiples of 14, so
    the grid covers the image exactly; the position embedding is resampled by timm. The structure is one and the same with
    and without pretrained weights: from random ones the frozen part stays random, which serves tests and cost alone.
    An input with further channels makes the patch embedding's weight a trained one, the pretrained slices too.
    """

    output_stride = PATCH
    smallest = 2 * PATCH  # two by two cells, so that a single image has a variance in the head's batch norm

    def __init__(self, name: str, heads: int, width: float, output_stride: int):
        super().__init__()
        import timm

        net = timm.create_model(name, pretrained=False, embed_dim=heads * scaled(64, width), num_heads=heads)
        self.patch_embed, self.blocks, self.norm = net.patch_embed, net.blocks, net.norm
        self.cls_token, self.pos_embed = net.cls_token, net.pos_embed
        self.grid = net.patch_embed.grid_size
        depth = len(self.blocks)
        self.taps = [depth * (number + 1) // 4 - 1 for number in range(4)]
        self.channels = (net.embed_dim,) * 4
        self.requires_grad_(False)
        add_lora(self.blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        from timm.layers import resample_abs_pos_embed

        grid = tuple((side + PATCH - 1) // PATCH for side in x.shape[-2:])  # -(-a // b) is another number in ONNX
        x = F.interpolate(x, [PATCH * cells for cells in grid], mode="bilinear", align_corners=False)
        tokens = self.patch_embed.proj(x).flatten(2).mT
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), tokens], dim=1)
        x = x + resample_abs_pos_embed(self.pos_embed, grid, self.grid)
        maps = []
        for index, block in enumerate(self.blocks):
            x = self.block(block, x)
            if index in self.taps:
                maps.append(self.norm(x[:, 1:]).mT.unflatten(2, grid))
        return tuple(maps)


def add_lora(network: nn.Module) -> None:
    """Give every layer called ``qkv`` an adapter that starts as zero, in place; all else of ``network`` is frozen."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("arch 'dinov2' needs the package peft: pip install 'segkd[lora]'") from error

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules=["qkv"])
    inject_adapter_in_model(config, network)


def merge_lora(network: nn.Module) -> None:
    """Add every adapter to the layer that it adapts and leave that layer alone in its place."""
    adapted = [m for m in network.modules() if hasattr(m, "lora_A") and hasattr(m, "base_layer")]
    for module in adapted:
        module.merge()
    replace_modules(network, {module: module.base_layer for module in adapted})


def renamed(state: State, what: str) -> tuple[State, bool]:
    """Names under LoRA, and the position embedding of any square grid (beside the class token) on DINOv2's own."""
    names = {re.sub(r"\.attn\.qkv\.(weight|bias)$", r".attn.qkv.base_layer.\1", key): value for key, value in state.items()}
    place = names.get("pos_embed")
    if place is not None and place.ndim == 3 and math.isqrt(place.shape[1] - 1) ** 2 == place.shape[1] - 1:
        from timm.layers import resample_abs_pos_embed

        names["pos_embed"] = resample_abs_pos_embed(place, GRID)
    return names, False


for _name, _timm, _attention_heads in (("vits14", "vit_small_patch14_dinov2", 6), ("vitb14", "vit_base_patch14_dinov2", 12)):
    _facts = {"pretrained": f"{_timm}.lvd142m", "unused": ("mask_token",), "renamed": renamed}
    _build = partial(DINOv2Encoder, _timm, _attention_heads)
    register(_name, EncoderSpec(_build, {"dinov2": (LinearHead, None)}, aux=False, **_facts))

"""DINOv2 (Oquab et al., 2023), timm's, frozen, with LoRA (Hu et al., 2022) on its attention, and its linear head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.models.backbone import Encoder, replace_modules, scaled
from segkd.models.heads import Head, Plan
from segkd.registry import UserError

PATCH = 14
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

        if output_stride != 8:  # what create_model passes when nothing was asked for
            raise UserError(f"create_model: output_stride={output_stride}; DINOv2 always has {PATCH}, leave it out")
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


class LinearHead(Head):
    """Batch norm and a 1x1 classifier on the last map: DINOv2's own linear evaluation (Oquab et al., section 7.4).

    A cell stands for its patch and not for a point, so corners are not aligned when scores are resized.
    """

    align_corners = False

    def __init__(self, plan: Plan):
        super().__init__(plan, dropout=0.0)
        if plan.channels != plan.maps[-1]:
            asked, own = plan.channels, plan.maps[-1]
            raise UserError(f"create_model: head_channels={asked}; a linear head is as wide as its encoder ({own}), leave it out")
        self.norm = nn.BatchNorm2d(plan.channels)

    @staticmethod
    def natural_width(maps: tuple[int, ...]) -> int:
        return maps[-1]

    def embed(self, maps: tuple[Tensor, ...]) -> Tensor:
        return self.norm(maps[-1])

    @torch.no_grad()
    def fold_norm(self) -> None:
        """Let the classifier do what the batch norm does in eval mode, in place: scores keep their values."""
        scale = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
        shift = self.norm.bias - scale * self.norm.running_mean
        self.classifier.bias += self.classifier.weight.flatten(1) @ shift
        self.classifier.weight *= scale[:, None, None]
        self.norm = nn.Identity()

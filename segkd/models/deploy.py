"""A network as it is deployed: images in, scores or labels out; no head for training, batch norms and LoRA folded away."""

from __future__ import annotations

import copy
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segkd.models.encoders.dinov2 import merge_lora
from segkd.models.heads.linear import LinearHead
from segkd.models.layers import replace_modules


class Deployed(nn.Module):
    """Images (B, in_channels, H, W), RGB in [0, 1], to scores (B, C, H, W), or with ``argmax`` to labels (B, H, W) int64.

    ``network`` gives a `Prediction` and normalises its input itself; its scores are brought to image size by bilinear
    resizing with its own ``align_corners``.
    """

    def __init__(self, network: nn.Module, argmax: bool = False):
        super().__init__()
        self.network, self.argmax = network, argmax

    def forward(self, images: Tensor) -> Tensor:
        logits, size = self.network(images).logits, images.shape[-2:]
        scores = F.interpolate(logits, size=size, mode="bilinear", align_corners=self.network.align_corners)
        return scores.argmax(1) if self.argmax else scores


def deployed(network: nn.Module, argmax: bool = False) -> Deployed:
    """A copy of ``network`` to deploy, on the CPU, in eval mode and without gradient; the network itself is untouched.

    It keeps the network's memory layout (channels_last is faster in torch, and of no account in ONNX).
    """
    twin = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    drop_aux_head(twin)
    if getattr(twin, "detail_head", None) is not None:
        twin.detail_head = None
    merge_lora(twin)
    for head in (m for m in twin.modules() if isinstance(m, LinearHead)):
        head.fold_norm()
    fold_norms(twin)
    return Deployed(twin, argmax).eval()


def drop_aux_head(network: nn.Module) -> None:
    """Take the auxiliary head away, in place, unless ``network`` looks at its scores itself, as OCRNet does."""
    if getattr(network, "aux_head", None) is not None and not network.head.aux_needed:
        network.aux_head = None


@torch.no_grad()
def fold_norms(network: nn.Module) -> int:
    """Fold every batch norm that reads what a convolution wrote into that convolution, in place; returns how many.

    For a network in eval mode. Pairs are seen in one pass over an empty image of the smallest size, not guessed from names.
    What a norm does beside normalising (the activation inside timm's) stays in its place.
    """
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensors are kept, so that no id is given twice
    pairs: dict[nn.Module, nn.Module] = {}

    def wrote(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        made[id(output)] = (module, output)

    def reads(module: nn.Module, inputs: tuple) -> None:
        if id(inputs[0]) in made:
            pairs[module] = made[id(inputs[0])][0]

    with ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                hooks.enter_context(module.register_forward_hook(wrote))
            elif isinstance(module, nn.BatchNorm2d):
                hooks.enter_context(module.register_forward_pre_hook(reads))
        side, device = network.info.smallest, next(network.parameters()).device
        network(torch.zeros(1, network.info.in_channels, side, side, device=device))
    replaced: dict[nn.Module, nn.Module] = {}
    for norm, conv in pairs.items():
        replaced[conv] = fuse_conv_bn_eval(conv, norm)
        replaced[norm] = nn.Sequential(*(m for m in norm.children() if not isinstance(m, nn.Identity)))
    replace_modules(network, replaced)
    return len(pairs)


class AnySizePool(nn.Module):
    """Adaptive average pooling to ``bins`` x ``bins`` as two matrix products that are made from the image's size.

    Equal to `nn.AdaptiveAvgPool2d` up to rounding; ONNX has no operator for it where the size is not known beforehand.
    """

    def __init__(self, bins: int):
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (pooling(side, self.bins, x) for side in x.shape[-2:])
        return rows @ (x @ columns.T)


def pooling(side: int, bins: int, like: Tensor) -> Tensor:
    """Matrix (bins, side) of means over floor(i side / bins) .. ceil((i + 1) side / bins)."""
    number = torch.arange(bins, device=like.device)[:, None]
    first, end = number * side // bins, ((number + 1) * side + bins - 1) // bins
    place = torch.arange(side, device=like.device)
    return ((place >= first) & (place < end)).to(like.dtype) / (end - first).to(like.dtype)


def any_size_pools(network: nn.Module) -> nn.Module:
    """``network`` with every square `nn.AdaptiveAvgPool2d` replaced by an `AnySizePool`, in place."""
    pools = (m for m in network.modules() if isinstance(m, nn.AdaptiveAvgPool2d) and isinstance(m.output_size, int))
    replace_modules(network, {pool: AnySizePool(pool.output_size) for pool in pools})
    return network

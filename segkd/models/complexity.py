"""What a network costs: parameters and multiply-adds, true and by the counting rule of the papers' tables."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn


def complexity(model: nn.Module, size: tuple[int, int]) -> dict[str, int]:
    """Cost of ``model`` (a `Segmenter`, untouched) on one image of ``size`` (H, W).

    ``params``: all parameters, ``trained_params``: those that are not frozen, ``aux_params``: those of the auxiliary and
    the detail head, included. ``macs``: multiply-adds of convolutions, linear layers and the matrix products of
    attention, these heads included, biases and all else ignored (torch's own count); adapters (LoRA) as in training,
    unmerged. ``macs_paper``: by the rule behind the tables of CIRKD, RDD and HWD, which knows only 2-d convolutions and
    linear layers and sizes a layer's output without its dilation, so a dilated convolution counts on a map larger by
    2(d-1). Runs on the meta device: no memory, no arithmetic.
    """
    from torch.utils.flop_counter import FlopCounterMode  # loads triton, 70 MB that no training process needs

    paper: list[int] = []
    twin = meta_twin(model)
    for module in twin.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda m, inputs, output: paper.append(_macs_paper(m, inputs[0], output)))
    twin.training = True  # the network's own flag, not its layers': it then runs the heads that only training has
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        twin(torch.empty(1, model.info.in_channels, *size, device="meta"))
    count = lambda module: sum(p.numel() for p in module.parameters()) if module is not None else 0  # noqa: E731
    return {
        "params": count(model),
        "trained_params": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "aux_params": sum(count(getattr(model, name, None)) for name in ("aux_head", "detail_head")),
        "macs": flops.get_total_flops() // 2,
        "macs_paper": sum(paper),
    }


def meta_twin(model: nn.Module) -> nn.Module:
    """A copy in eval mode without storage: the memo makes deepcopy take empty tensors for the weights."""
    memo = {id(t): t.detach().to("meta") for t in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, memo).eval()


def _macs_paper(module: nn.Module, x: Tensor, output: Tensor) -> int:
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    if isinstance(module.padding, str):  # "same", "valid": the rule has no such case; the true size
        return output.numel() * module.weight[0].numel()
    sides = zip(x.shape[-2:], module.padding, module.kernel_size, module.stride)
    height, width = ((side + 2 * pad - kernel) // stride + 1 for side, pad, kernel, stride in sides)
    return height * width * module.out_channels * module.weight[0].numel()

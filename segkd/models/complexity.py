"""What a network costs: parameters and multiply-adds, true and by the counting rule of the papers' tables."""

from __future__ import annotations

import copy
from collections import Counter
from itertools import chain

import torch
from torch import Tensor, nn


def complexity(model: nn.Module, size: tuple[int, int]) -> dict[str, int]:
    """Cost of ``model`` (a `Segmenter`, untouched) on one image of ``size`` (H, W).

    ``params``: all parameters, ``aux_params``: those of the auxiliary head, included. ``macs``: multiply-adds of
    convolutions and linear layers, auxiliary head included, biases and all else ignored. ``macs_paper``: the same by
    the rule behind the tables of CIRKD, RDD and HWD, which sizes a layer's output without its dilation, so a dilated
    convolution counts on a map larger by 2(d-1). Runs on the meta device: no memory, no arithmetic.
    """
    counts: Counter[str] = Counter()
    twin = _meta_twin(model)
    for module in twin.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda m, inputs, output: counts.update(_macs(m, inputs[0], output)))
    with torch.no_grad():
        twin(torch.empty(1, model.info.in_channels, *size, device="meta"))
    aux = getattr(model, "aux_head", None)
    return {
        "params": _parameters(model),
        "aux_params": 0 if aux is None else _parameters(aux),
        "macs": counts["true"],
        "macs_paper": counts["paper"],
    }


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _meta_twin(model: nn.Module) -> nn.Module:
    """A copy in eval mode without storage: the memo makes deepcopy take empty tensors for the weights."""
    memo = {id(t): t.detach().to("meta") for t in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, memo).eval()


def _macs(module: nn.Module, x: Tensor, output: Tensor) -> dict[str, int]:
    if isinstance(module, nn.Linear):
        macs = output.numel() * module.in_features
        return {"true": macs, "paper": macs}
    taps = module.weight[0].numel()
    sides = zip(x.shape[-2:], module.padding, module.kernel_size, module.stride)
    height, width = ((side + 2 * pad - kernel) // stride + 1 for side, pad, kernel, stride in sides)
    return {"true": output.numel() * taps, "paper": height * width * module.out_channels * taps}

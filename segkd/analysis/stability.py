"""How much a label-assisted teacher's answer hangs on the draw of its label noise (LAD Table 8)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segkd.analysis.features import evaluating, network_input
from segkd.train.evaluate import batches

DRAWS = 3


def mean_pairwise_kl(scores: Tensor) -> Tensor:
    """KL(p_i || p_j) averaged over all m * m ordered pairs of draws, for each pixel: (m, B, C, h, w) to (B, h, w).

    p is the softmax over classes. As in the paper's formula the m pairs of a draw with itself, which are zero, count.
    """
    log = scores.double().log_softmax(2)
    expected = torch.einsum("ibchw,jbchw->ijbhw", log.exp(), log)  # sum over classes of p_i log p_j
    own = torch.diagonal(expected).permute(3, 0, 1, 2)
    return (own[:, None] - expected).mean((0, 1))


def noise_sensitivity(model: nn.Module, packed, label_noise: Callable, seed: int = 0) -> float:
    """Mean over images and grid pixels of `mean_pairwise_kl` over three independent draws of label noise, in nats.

    ``label_noise`` as in ``features.network_input``. The paper prints it times 100.
    """
    total, pixels = 0.0, 0
    with evaluating(model) as device:
        for start, images, labels in batches(packed, 4):
            inputs = [network_input(images, labels, label_noise, (seed * 10_007 + start) * DRAWS + k) for k in range(DRAWS)]
            found = mean_pairwise_kl(torch.stack([model(x.to(device)).logits for x in inputs]))
            total, pixels = total + float(found.sum()), pixels + found.numel()
    return total / max(pixels, 1)

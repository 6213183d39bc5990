"""Batch norm and dropout that treat the shards of several processes as the one batch that they are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from segkd.losses.distributed import Shard, count_over_processes


def as_one_batch(model: nn.Module, shard: Shard) -> nn.Module:
    """``model`` with batch statistics of all processes, and dropout as one process would draw it for the whole batch.

    Names and values of weights stay. On a GPU batch norm is torch's SyncBatchNorm; that has no CPU form, so there it is ours.
    """
    if next(model.parameters()).is_cuda:
        from timm.layers import convert_sync_batchnorm  # torch's own loses the activation inside timm's norms

        model = convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = WholeBatchNorm
        elif type(module) is nn.Dropout:
            module.__class__ = WholeDropout
            module.shard = shard
    return model


class _Sum(torch.autograd.Function):
    """The sum over processes; so is its gradient, since every process has a part of the loss."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, pull: Tensor):
        pull = pull.clone()
        distributed.all_reduce(pull)
        return pull


class WholeBatchNorm(_BatchNorm):
    """nn.BatchNorm2d, or timm's with its activation, whose training statistics are those of all processes."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        x = self._whole(x) if self.training else super().forward(x)
        for name in ("drop", "act"):  # timm's norm has both behind it
            x = getattr(self, name)(x) if hasattr(self, name) else x
        return x

    def _whole(self, x: Tensor) -> Tensor:
        dims = (0, *range(2, x.dim()))
        count = count_over_processes(x.numel() // x.shape[1], x)
        shape = (1, -1, *[1] * (x.dim() - 2))
        mean = _Sum.apply(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / count
        self._remember(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = (variance + self.eps).rsqrt()
        return centred * (scale if self.weight is None else scale * self.weight).view(shape) + (
            0 if self.bias is None else self.bias.view(shape)
        )

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Running statistics, as torch keeps them."""
        if not self.track_running_stats:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
        factor = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(variance.to(self.running_var.dtype), factor)


class WholeDropout(nn.Dropout):
    """Dropout that draws for the batch of all processes and takes its own rows."""

    shard: Shard

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        images = len(x) // (self.shard.rows.stop - self.shard.rows.start) * self.shard.starts[-1]
        ones = torch.ones(images, *x.shape[1:], dtype=x.dtype, device=x.device)
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            ones = ones.to(memory_format=torch.channels_last)  # numbers are drawn in the order of the memory
        return x * self.shard.cut(F.dropout(ones, self.p))

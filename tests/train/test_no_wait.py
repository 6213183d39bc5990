"""A pretended GPU: tensors that say they are on another device and are computed on the CPU. What would wait for it is counted.

So the code that a GPU takes runs here, with its values: each method's step, batches, evaluation. Its device is called meta.
"""

import contextlib
import dataclasses
import sys

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.data.augment import augment
from segkd.data.resident import Resident
from segkd.losses import list_methods
from segkd.losses.cirkd import MemoryBank
from segkd.losses.fakd import augmented_pixelwise
from segkd.losses.class_statistics import ClassStatistics
from segkd.losses.rdd import hard_pixels
from segkd.models.deploy import fold_norms
from segkd.prediction import IGNORE
from segkd.train import evaluate, optim
from segkd.train.teacher import Teacher
from segkd.train.trainee import Trainee, build_network, method_of

aten = torch.ops.aten
THERE = torch.device("meta")
ASKS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.bincount, aten._unique2, aten.unique_dim, aten.equal, aten.is_nonzero}
INDEX = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}


class There(torch.Tensor):
    """A tensor of the pretended device; its values are ``here``."""

    @staticmethod
    def __new__(cls, here):
        shape = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype, "device": THERE}
        return torch.Tensor._make_wrapper_subclass(cls, here.shape, requires_grad=False, **shape)

    def __init__(self, here):
        self.here = here

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of the device")


class Device(TorchDispatchMode):
    """Computes what is there, and notes in ``waits`` what a GPU would be waited for."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        there, to = [x for x in tensors if isinstance(x, There)], kwargs.get("device")
        if not there and (to is None or torch.device(to) != THERE):
            return func(*args, **kwargs)
        kwargs = kwargs | ({} if to is None else {"device": torch.device("cpu")})
        args, kwargs, mine = *tree_map_only(There, lambda x: x.here, (args, kwargs)), (args, kwargs)
        if func is aten._to_copy.default and to is not None:
            across = bool(there) != (torch.device(to) == THERE)
            if across and not (kwargs.get("non_blocking") and not there):
                self.waits.append("copy")
            found = func(*args, **kwargs)
            return There(found) if torch.device(to) == THERE else found
        apart = [x for x in tensors if not isinstance(x, There) and x.dim()]
        if func is aten.copy_.default and apart:
            self.waits.append("copy")
        elif apart:
            raise AssertionError(f"{func}: tensors of the CPU and of the device")
        asks = func.overloadpacket in ASKS or (func.overloadpacket is aten.repeat_interleave and kwargs.get("output_size") is None)
        if asks or (func.overloadpacket in INDEX and any(i is not None and i.dtype == torch.bool for i in args[1])):
            self.waits.append(str(func))
        if func is aten.histc.default and not args[0].is_floating_point():  # the CPU has none for whole numbers
            values, bins, low, high = args
            assert (low, high) == (0, bins)
            return There(torch.bincount(values, minlength=bins))
        return self._returned(func, func(*args, **kwargs), *mine)

    @staticmethod
    def _returned(func, found, args, kwargs):
        """What was changed in place as it was given, all else as tensors of the device."""
        schema = func._schema
        given = {a.name: value for a, value in zip(schema.arguments, args)} | kwargs
        written = {tuple(a.alias_info.before_set): given.get(a.name) for a in schema.arguments if a.alias_info and a.alias_info.is_write}
        wrap = lambda x: tree_map_only(torch.Tensor, lambda t: t if isinstance(t, There) else There(t), x)
        back = lambda r, x: written[tuple(r.alias_info.before_set)] if r.alias_info and r.alias_info.is_write else wrap(x)
        if len(schema.returns) == 1:
            return back(schema.returns[0], found)
        return tuple(back(r, x) for r, x in zip(schema.returns, found)) if schema.returns else None


class Generator(torch.Generator):
    """One of the CPU, wherever it is said to be."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu")


@pytest.fixture
def device(monkeypatch):
    """The pretended device, while the test runs."""
    modules = [sys.modules[f"torch.optim.{name}"] for name in ("optimizer", "sgd", "adam")]
    plain, kinds = torch.autocast, modules[0]._get_fused_kernels_supported_devices
    autocast = lambda kind, *a, **k: contextlib.nullcontext() if kind == "meta" else plain(kind, *a, **k)
    monkeypatch.setattr(torch, "autocast", autocast)
    for module in modules:
        monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: [*kinds(), "meta"], raising=False)
    monkeypatch.setattr(torch, "Generator", Generator)
    with Device() as found:
        yield found


def there(tensor):
    return tensor.to(THERE, non_blocking=True)


CLASSES, SIZE = 5, (48, 64)
SCHEDULE = Schedule(steps=6, batch_size=2, lr=0.02, validations=2, average=0.9)
NET = NetworkConfig("pspnet/resnet18", 0.125)
OPTIONS = {  # so that the device's own draws are of no account
    "cirkd": {"cirkd": {"pixels_per_class": 64, "pixel_size": 300, "region_size": 30, "pixel_keys": 10**6, "region_keys": 10**6}},
    "lad+cwd": {"lad": {"alpha": 0.0}}, "fakd_pd": {"fakd_pd": {"covariance": "full"}},
}  # fmt: skip
METHODS = ["baseline", "lad+cwd", *(name for name in list_methods() if name != "lad")]
OFFICIAL = ["rdd", "skd", "mgd", "lad+cwd", "cirkd"]


def given():
    draws = torch.Generator().manual_seed(3)
    images = torch.rand(2, 3, *SIZE, generator=draws)
    labels = torch.randint(0, CLASSES, (2, *SIZE), generator=draws).repeat_interleave(8, 1)[:, : SIZE[0]]
    labels[:, :5] = IGNORE
    return images, labels


def steps(where, method, variant):
    """Two steps; the second one's row, and the run."""
    config = RunConfig(DataConfig(), NET, SCHEDULE, method=method, variant=variant, hyper=OPTIONS.get(method, {}), teacher=RunConfig())
    kind = method_of(config).teacher_kind
    model = build_network(RunConfig(DataConfig(), dataclasses.replace(NET, width=0.1875, extra_channels=0 if kind is None else 1), SCHEDULE), CLASSES)
    if kind is not None:
        kind.build(model.info, None)
    fold_norms(model.eval())
    teacher = Teacher(model.to(where), kind, 0)
    trainee = Trainee(config, CLASSES, model.info, where)
    images, labels = (x if where.type == "cpu" else there(x) for x in given())
    for step in range(2):
        if isinstance(waits := getattr(steps, "waits", None), list):
            waits.clear()  # tables of the first step are kept
        row = trainee.train_step(images, labels, teacher(images, labels, step))
    return row, trainee


@pytest.mark.parametrize("method, variant", [*((m, "paper") for m in METHODS), *((m, "official") for m in OFFICIAL)])
def test_a_step_waits_once_and_gives_what_the_cpu_gives(method, variant, device, monkeypatch):
    wanted, run = steps(torch.device("cpu"), method, variant)
    monkeypatch.setattr(steps, "waits", device.waits, raising=False)
    found, other = steps(THERE, method, variant)
    assert device.waits == ["copy"], "the one of `_finite`"
    assert found == pytest.approx(wanted, rel=2e-4, abs=1e-6)
    weights = other.averaged.module.state_dict()
    for name, value in run.averaged.module.state_dict().items():
        assert torch.allclose(weights[name].here, value, rtol=1e-3, atol=2e-5), name

"""An empty folder of runs for every test, and a pretended GPU: tensors that say they are on another device and are computed on the CPU. What would wait for it is counted.

So the code that a GPU takes runs here, with its values. Its device is called meta.
"""

import contextlib
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

pytest.register_assert_rewrite("tests.train.harness")
aten = torch.ops.aten
THERE = torch.device("meta")
ASKS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.bincount, aten._unique2, aten.unique_dim, aten.equal, aten.is_nonzero}
SORTED = {aten.scatter, aten.scatter_, aten.scatter_add, aten.scatter_add_}  # where bits are to repeat: a sort, and in some versions of torch a wait
INDEX = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}


class There(torch.Tensor):
    """A tensor of the pretended device; its values are ``here``."""

    @staticmethod
    def __new__(cls, here):
        shape = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype, "device": THERE}
        return torch.Tensor._make_wrapper_subclass(cls, here.shape, requires_grad=False, **shape)

    def __init__(self, here):
        self.here = here

    def tolist(self):
        return self.cpu().tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of the device")


class Device(TorchDispatchMode):
    """Computes what is there, notes in ``waits`` what a GPU would be waited for, and counts what is begun there."""

    def __init__(self):
        super().__init__()
        self.waits, self.launches = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        there, to = [x for x in tensors if isinstance(x, There)], kwargs.get("device")
        if not there and (to is None or torch.device(to) != THERE):
            return func(*args, **kwargs)
        self.launches += not any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)  # not of a view
        kwargs = kwargs | ({} if to is None else {"device": torch.device("cpu")})
        args, kwargs, mine = *tree_map_only(There, lambda x: x.here, (args, kwargs)), (args, kwargs)
        if func is aten._to_copy.default and to is not None:
            across = bool(there) != (torch.device(to) == THERE)
            if across and not (kwargs.get("non_blocking") and not there):
                self.waits.append("copy")
            assert there or not torch._debug_has_internal_overlap(args[0]) == 1, "pin_memory takes no expanded tensor"
            found = func(*args, **kwargs)
            return There(found) if torch.device(to) == THERE else found
        apart = [x for x in tensors if not isinstance(x, There) and x.dim()]
        if func is aten.copy_.default and apart:
            self.waits.append("copy")
        elif apart:
            raise AssertionError(f"{func}: tensors of the CPU and of the device")
        asks = func.overloadpacket in ASKS or (func.overloadpacket is aten.repeat_interleave and kwargs.get("output_size") is None)
        asks |= func.overloadpacket in SORTED and args[0].dim() > 1 and isinstance(args[3], torch.Tensor)
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


@pytest.fixture(autouse=True)
def own_runs(runs):
    """An empty folder of runs for every test; the packed data is shared by all."""

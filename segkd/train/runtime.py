"""Where and with what randomness a run computes: device, threads, and random numbers as functions of names."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from segkd.config import Schedule
from segkd.registry import UserError

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts; without it its products may differ


def derive(*parts: object) -> int:
    """A 63-bit seed from (seed, step, purpose, ...): every draw is a pure function of these, so a run needs no RNG state."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded by ``derive(*parts)``."""
    return torch.Generator().manual_seed(derive(*parts))


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` (cuda if there is one), ``cpu``, ``cuda`` or ``cuda:1``; UserError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"DEVICES: '{name}' is not a device; use auto, cpu, cuda or cuda:<n>") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"DEVICES: '{name}' asked for, but torch sees no CUDA device; use DEVICES=cpu")
    return device


def forward_precision(device: torch.device, precision: str) -> torch.autocast:
    """A context for forward passes: ``bf16`` is autocast, the others change nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def compiler(device: torch.device) -> str | None:
    """What torch.compile makes code with for this device, where that is here: triton for a GPU, a C++ compiler for a CPU."""
    if device.type == "cuda":
        return "triton" if find_spec("triton") else None
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


def check_schedule(schedule: Schedule, device: torch.device) -> None:
    """UserError for what this machine cannot do: compile without a compiler, float64; says what that means on a GPU."""
    if schedule.compile and compiler(device) is None:
        needed = "triton" if device.type == "cuda" else "a C++ compiler ($CXX, or g++)"
        raise UserError(f"schedule.compile needs {needed}, which is not here: install it, or set schedule.compile to false")
    if schedule.precision == "tf32" and device.type != "cuda":
        raise UserError(f"schedule.precision tf32: a device of type {device.type} has none; use DEVICES=cuda, or float32")
    if schedule.precision != "float64":
        return
    if schedule.compile:
        raise UserError("schedule.precision float64 with schedule.compile: compiled code rounds as it likes; leave out one of them")
    if device.type == "mps":
        raise UserError("schedule.precision float64: a device of type mps has no float64; use DEVICES=cpu, or float32")
    if device.type != "cpu":
        print(f"schedule.precision float64 on {device}: much slower than float32, and the same numbers as a CPU only nearly", file=sys.stderr)


def dtype_of(precision: str) -> torch.dtype:
    """What weights, images and draws of a run have; bf16 is of the forward passes alone."""
    return torch.float64 if precision == "float64" else torch.float32


@contextmanager
def _set(read: Callable[[], Any], write: Callable[[Any], None], value: Any) -> Iterator[None]:
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


def new_tensors(dtype: torch.dtype) -> AbstractContextManager[None]:
    """Inside, tensors made anew (weights, draws, images) have this type, in all threads of the process."""
    return _set(torch.get_default_dtype, torch.set_default_dtype, dtype)


def like(model: nn.Module) -> AbstractContextManager[None]:
    """`new_tensors` of the type of a network's weights: what it is fed and what losses build beside it fit it."""
    return new_tensors(next(model.parameters()).dtype)


@contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """All that a run of this precision computes happens in here: on `one_thread`, in its own type from the first draw on,
    `repeatable` on a GPU."""
    with one_thread(), new_tensors(dtype_of(precision)), repeatable(precision, device) if device.type == "cuda" else nullcontext():
        yield


@contextmanager
def repeatable(precision: str, device: torch.device) -> Iterator[None]:
    """On a GPU: products and convolutions in TF32 for "tf32" alone, and the algorithms that give the same bits each time.

    An operation that has none warns. ``SEGKD_DETERMINISTIC=0`` allows all algorithms; a run's env.json and origin say which it was.
    """
    strict, cudnn, utils = os.environ.get("SEGKD_DETERMINISTIC") != "0", torch.backends.cudnn, torch.utils.deterministic
    mode, before = torch.get_deterministic_debug_mode(), (cudnn.deterministic, utils.fill_uninitialized_memory)
    torch.use_deterministic_algorithms(strict, warn_only=True)
    cudnn.deterministic, utils.fill_uninitialized_memory = strict, False  # to fill new memory costs time and changes nothing here
    allow_tf32(precision == "tf32")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        cudnn.deterministic, utils.fill_uninitialized_memory = before
        allow_tf32(False)


def allow_tf32(allow: bool) -> None:
    """Whether float32 on a GPU may be TF32, with 10 bits behind the point instead of 23; torch's default is yes for convolutions."""
    torch.set_float32_matmul_precision("high" if allow else "highest")
    torch.backends.cudnn.allow_tf32 = allow


allow_tf32(False)  # float32 is float32, in pages and evaluations too


def one_thread() -> AbstractContextManager[None]:
    """Compute on one CPU thread: sums have one order, so a run gives the same bits on a machine of any size.

    Parallel work is done by processes, which for the narrow networks of the CPU profiles is faster as well.
    """
    return _set(torch.get_num_threads, torch.set_num_threads, 1)

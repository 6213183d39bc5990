"""Where and with what randomness a run computes: device, threads, and random numbers as functions of names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from segkd.config import PRECISIONS
from segkd.registry import UserError, unknown


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
    """A context for forward passes: ``bf16`` is autocast, ``float32`` changes nothing; UserError for another word."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one CPU thread: sums have one order, so a run gives the same bits on a machine of any size.

    Parallel work is done by processes, which for the narrow networks of the CPU profiles is faster as well.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

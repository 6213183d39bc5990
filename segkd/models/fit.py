"""Whether a state dict fits a module: filled whole or refused with every kind of misfit, and what it would fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from segkd.models.naming import State
from segkd.registry import UserError

SHOWN = 3  # keys of each kind that an error names
ADAPTER = ".lora_"  # in names of peft's adapters


def misfit_keys(own: State, state: State, unused: tuple[str, ...] = ()) -> tuple[list[str], list[str], list[str]]:
    """Keys that are missing, unexpected (unless they begin as ``unused``), and of another shape (with both shapes).

    Counters of batch norms may be missing, and adapters, if none of them is there.
    """
    absent = {key for key in own if key.endswith("num_batches_tracked")}  # from old files
    if not any(ADAPTER in key for key in state):  # weights of before the adapters came, which then start as zero
        absent |= {key for key in own if ADAPTER in key}
    missing = [key for key in own if key not in state and key not in absent]
    surplus = [key for key in state if key not in own and not key.startswith(unused)]
    wrong = [key for key in own if key in state and state[key].shape != own[key].shape]
    return missing, surplus, [f"{key} {tuple(state[key].shape)} where {tuple(own[key].shape)} is needed" for key in wrong]


def in_words(keys: tuple[list[str], list[str], list[str]]) -> str:
    """Misfits as text, the first few of each kind and how many there are; empty if all fits."""
    problems = zip(("lacks", "has unexpected", "has another shape for"), keys)
    return "; ".join(f"{problem} {_few(found)}" for problem, found in problems if found)


def _few(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{', '.join(keys[:SHOWN])}{more} ({len(keys)})"


def fill(module: nn.Module, state: State, unused: tuple[str, ...], what: str, advice: Callable[[], str]) -> None:
    """Load ``state`` into ``module``, every key of it, or a UserError with the misfits and ``advice()``; never a part."""
    own = module.state_dict()
    found = in_words(misfit_keys(own, state, unused))
    if found:
        raise UserError(f"{what} {found}; {advice()}")
    module.load_state_dict({key: value for key, value in state.items() if key in own}, strict=False)


@dataclass(frozen=True)
class Candidate:
    """A module that a state might be for: how it is built, the state in its layout, prefixes that may be left over."""

    name: str
    build: Callable[[], nn.Module]
    state: State
    unused: tuple[str, ...] = ()


def nearest(candidates: Iterable[Candidate]) -> tuple[Candidate | None, str]:
    """The candidate with the fewest misfits, built without memory, and these in words (empty: it fits wholly)."""
    best, fewest, words = None, math.inf, ""
    for candidate in candidates:
        with torch.device("meta"):
            own = candidate.build().state_dict()
        keys = misfit_keys(own, candidate.state, candidate.unused)
        if (count := sum(map(len, keys))) < fewest:
            best, fewest, words = candidate, count, in_words(keys)
        if not count:
            break
    return best, words

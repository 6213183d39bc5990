"""The order of training images: a pure function of (n, batch size, step, seed), so that resuming needs no state.

The stream is one permutation of all images after the other. CIRKD's code instead repeats the list up to the length of
the training and draws one permutation of that, always with seed 0; there an image may come back early or late.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from segkd.registry import UserError


def batch_indices(n: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Indices int64 (batch_size,) of the images of ``step`` (from 0) for a set of ``n`` images.

    Every image comes once per epoch; a batch may straddle two epochs, and a batch larger than ``n`` holds images twice.
    """
    if n < 1 or batch_size < 1 or step < 0 or seed < 0:
        raise UserError(f"batch_indices: n, batch_size >= 1; step, seed >= 0; got {n=} {batch_size=} {step=} {seed=}")
    epoch, place = np.divmod(step * batch_size + np.arange(batch_size), n)
    return np.array([_permutation(n, seed, int(e))[p] for e, p in zip(epoch, place)], dtype=np.int64)


def shard(batch_size: int, rank: int, world: int) -> tuple[int, int]:
    """The images begin ... end - 1 of a batch that are ``rank``'s, one rank after the other: they differ by one image at most, none is empty."""
    if not 0 <= rank < world <= batch_size:
        raise UserError(f"a batch of {batch_size} for rank {rank} of {world} processes: give every process an image")
    return batch_size * rank // world, batch_size * (rank + 1) // world


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """Permutation of ``n`` by sorting raw Philox words keyed by (seed, epoch).

    NumPy promises the same raw words for ever, but not the same ``Generator.permutation``.
    """
    words = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(n)
    order = np.argsort(words, kind="stable")
    order.flags.writeable = False
    return order

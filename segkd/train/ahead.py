"""The batch of the next step is made in a thread while this step trains, so that training does not wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Made = TypeVar("Made")


@contextmanager
def ahead(make: Callable[[int], Made], last: int) -> Iterator[Callable[[int], Made]]:
    """A function that gives ``make(step)`` for steps in turn below ``last``, each begun when the one before it is asked for.

    ``make`` has to be a function of the step alone: what it gives is then the same whenever it is called. Its errors come
    where its batch is asked for. The end of the context waits for the batch under way.
    """
    thread, begun = ThreadPoolExecutor(1, "batch"), {}

    def batch(step: int) -> Made:
        found: Future[Made] = begun.pop(step, None) or thread.submit(make, step)
        made = found.result()
        begun.clear()
        if step + 1 < last:
            begun[step + 1] = thread.submit(make, step + 1)
        return made

    try:
        yield batch
    finally:
        thread.shutdown(cancel_futures=True)

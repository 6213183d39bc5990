"""The batch of the next step is made in a thread while this step trains, so that training does not wait for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class Ahead(Generic[Batch]):
    """``make(step)`` for steps in turn below ``last``, each begun when the one before it is asked for.

    ``make`` has to be a function of the step alone: what it gives is then the same whenever it is called. Its errors come
    where its batch is asked for. A context, whose end waits for the batch under way.
    """

    def __init__(self, make: Callable[[int], Batch], last: int):
        self.make, self.last = make, last
        self._thread = ThreadPoolExecutor(1, "batch")
        self._begun: dict[int, Future[Batch]] = {}

    def __call__(self, step: int) -> Batch:
        """The batch of ``step``."""
        found = self._begun.pop(step, None) or self._thread.submit(self.make, step)
        batch = found.result()
        self._begun = {step + 1: self._thread.submit(self.make, step + 1)} if step + 1 < self.last else {}
        return batch

    def __enter__(self) -> Ahead[Batch]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)

"""How long work takes on a device: by the clock on a CPU, by events in its stream on a GPU, where calls return before their work is done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Seconds of all that was `timed` with it. A GPU is not waited for: what it has not done yet is read later."""

    def __init__(self, device: torch.device):
        self.device, self.read = device, 0.0
        self._under_way: deque[tuple[Any, Any]] = deque()

    @property
    def seconds(self) -> float:
        """All of it; waits for what is under way."""
        self._read(wait=True)
        return self.read

    def _read(self, wait: bool) -> None:
        while self._under_way and (wait or self._under_way[0][1].query()):
            begin, end = self._under_way.popleft()
            end.synchronize()
            self.read += begin.elapsed_time(end) / 1000


@contextmanager
def timed(*clocks: Clock) -> Iterator[None]:
    """What is done inside counts in every clock (they are of one device), unless it fails."""
    begin = _now(clocks[0].device)
    yield
    end = _now(clocks[0].device)
    for clock in clocks:
        if clock.device.type != "cuda":
            clock.read += end - begin
        else:
            clock._under_way.append((begin, end))
            clock._read(wait=False)


def _now(device: torch.device) -> Any:
    """This moment, in the work of the device."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event

"""The same work on many images, by one process a core: results as they come, the time left, a killed process is one error."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

from segkd.registry import UserError

ROWS = 16  # images that make another process worth its start, and the most that one is given at a time
LINE_SECONDS = 20.0  # without a terminal: a line so often

Work = Callable[[Any, int], Any]  # (what all share, row) -> result


def in_processes(work: Work, shared: Any, rows: Sequence[int], what: str) -> Iterator[tuple[int, Any]]:
    """(row, ``work(shared, row)``) for every row, in the order in which they are done; ``what`` is said of the progress.

    ``work`` is a function of a module and ``shared`` can be pickled, so that any way of starting a process will do. Few
    rows are done by this process. The first error of ``work`` is raised here and ends it; so does a process that was
    killed (UserError). What was yielded before is done.
    """
    processes = min(cores(), len(rows) // ROWS)
    found = _by_workers(work, shared, rows, what, processes) if processes > 1 else ((row, work(shared, row)) for row in rows)
    yield from _shown(found, len(rows), what)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _by_workers(work: Work, shared: Any, rows: Sequence[int], what: str, processes: int) -> Iterator[tuple[int, Any]]:
    each = max(1, min(ROWS, len(rows) // (8 * processes)))
    chunks = (rows[start : start + each] for start in range(0, len(rows), each))
    pool = ProcessPoolExecutor(processes, _context(), _start, (work, shared, os.getpid()))
    try:
        running = {pool.submit(_chunk, chunk) for chunk in islice(chunks, 3 * processes)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(_chunk, chunk) for chunk in islice(chunks, len(done))}
            for future in done:
                yield from future.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"{what}: a worker process was killed, most likely for want of memory; close other programs and give the same "
            "command again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _context() -> multiprocessing.context.BaseContext:
    """Fork, as a new interpreter would import torch for longer than CamVid takes; not beside CUDA, which forbids it."""
    torch = sys.modules.get("torch")
    forks = "fork" in multiprocessing.get_all_start_methods() and not (torch and torch.cuda.is_initialized())
    return multiprocessing.get_context("fork" if forks else "spawn")


def _start(work: Work, shared: Any, parent: int) -> None:
    """In a new worker: what it will do. Ctrl-C is the parent's; where that one was killed, nobody else ends the worker."""
    global _task
    _task = (work, shared)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _chunk(rows: Sequence[int]) -> list[tuple[int, Any]]:
    work, shared = _task
    return [(row, work(shared, row)) for row in rows]


def _shown(found: Iterable[tuple[int, Any]], total: int, what: str) -> Iterator[tuple[int, Any]]:
    """``found`` with a bar on a terminal, elsewhere with a line now and then."""
    from tqdm import tqdm

    begin = last = time.monotonic()
    bar = tqdm(total=total, desc=what, unit="image", disable=None, leave=False, dynamic_ncols=True)
    try:
        for count, item in enumerate(found, 1):
            yield item
            bar.update()
            now = time.monotonic()
            if bar.disable and now - last > LINE_SECONDS:
                last = now
                left = int((now - begin) / count * (total - count))
                print(f"{what}: {count} of {total} images, {left // 60}:{left % 60:02d} left", flush=True)
    finally:
        bar.close()

"""The same work on many images, by one process a core: results in order, the time left, a killed process is one error."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tqdm import tqdm

from segkd.registry import UserError

ROWS = 16  # images that make another process worth its start, and the most that one is given at a time

Work = Callable[[Any, int], Any]  # (what all share, row) -> result


def in_processes(work: Work, shared: Any, count: int, what: str) -> Iterator[Any]:
    """``work(shared, row)`` for the rows 0 to count - 1, in order; ``what`` is said of the progress on stderr.

    ``work`` is a function of a module and ``shared`` can be pickled, so that any way of starting a process will do. Few
    rows are done by this process. The first error of ``work`` is raised here and ends it; so does a process that was
    killed (UserError).
    """
    often = 0.1 if sys.stderr.isatty() else 20  # seconds from one word of progress to the next
    processes = min(cores(), count // ROWS)
    found = _by_workers(work, shared, count, what, processes) if processes > 1 else (work(shared, row) for row in range(count))
    yield from tqdm(found, what, count, unit="image", leave=False, mininterval=often, delay=often, dynamic_ncols=True)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _by_workers(work: Work, shared: Any, count: int, what: str, processes: int) -> Iterator[Any]:
    pool = ProcessPoolExecutor(processes, _context(), _start, (work, shared, os.getpid()))
    try:
        yield from pool.map(_work, range(count), chunksize=max(1, min(ROWS, count // (8 * processes))))
    except BrokenProcessPool as error:
        raise UserError(
            f"{what}: a worker process was killed, most likely for want of memory; close other programs and give the same "
            "command again: it begins anew"
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


def _work(row: int) -> Any:
    work, shared = _task
    return work(shared, row)

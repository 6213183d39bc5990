"""How far a study is: a bar on a terminal, plain lines elsewhere (papermill, JupyterLab, log files)."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

LINE_SECONDS = 20.0


class Progress:
    """Counts work over all runs, in any unit: steps, each times what a step of its run costs."""

    def __init__(self, total_work: float, total_runs: int, terminal: bool | None = None):
        self.total_work, self.total_runs = total_work, total_runs
        self.work, self.images, self.runs = 0.0, 0, 0
        self.begin = self.last_line = time.monotonic()
        self.bar = None
        if sys.stderr.isatty() if terminal is None else terminal:
            from tqdm import tqdm

            form = "{desc} |{bar}| {percentage:3.0f} % {elapsed}, {remaining} left"
            self.bar = tqdm(total=total_work, bar_format=form, dynamic_ncols=True, smoothing=0.02, mininterval=0.5)

    def step(self, run: str, row: Mapping[str, float], of: int, work: float = 1.0, images: int = 0) -> None:
        """``work`` more was done, on ``images``; the newest is a row of ``run``'s log: its step (of ``of``), loss and lr."""
        self.work += work
        self.images += images
        numbers = "".join(f" {name} {row[name]:{form}}" for name, form in (("loss", ".3f"), ("lr", ".2g")) if name in row)
        now = f"runs {self.runs}/{self.total_runs} | {run} step {row['step']}/{of}{numbers} | {self.rate():.0f} images/s"
        if self.bar is not None:
            self.bar.set_description_str(now, refresh=False)
            self.bar.update(work)
        elif time.monotonic() - self.last_line > LINE_SECONDS:
            self.last_line = time.monotonic()
            print(f"{now} | {self.left()} left", flush=True)

    def finished(self, run: str, miou: float) -> None:
        """A run is done."""
        self.runs += 1
        text = f"done {self.runs}/{self.total_runs}: {run}  mIoU {miou:.3f}"
        self.bar.write(text, file=sys.stderr) if self.bar is not None else print(text, flush=True)

    def rate(self) -> float:
        """Images a second that students have learnt from so far, those of all runs together."""
        return self.images / max(time.monotonic() - self.begin, 1e-9)

    def left(self) -> str:
        """Time left at the speed so far, as m:ss, or h:mm:ss from an hour."""
        spent = time.monotonic() - self.begin
        seconds = int(spent / max(self.work, 1e-9) * max(self.total_work - self.work, 0))
        hours = f"{seconds // 3600}:" if seconds >= 3600 else ""
        return f"{hours}{seconds % 3600 // 60:{'02d' if hours else 'd'}}:{seconds % 60:02d}"

    def close(self) -> None:
        """Leave the terminal clean."""
        if self.bar is not None:
            self.bar.close()


def in_words(seconds: float) -> str:
    """A length of time as one reads it: ``40 s``, ``12 min``, ``3 h 05 min``, ``4.2 days``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"

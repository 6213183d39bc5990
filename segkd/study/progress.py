"""How far a study is: a bar on a terminal, plain lines elsewhere (papermill, JupyterLab, log files)."""

from __future__ import annotations

import sys
import time

LINE_SECONDS = 20.0


class Progress:
    """Counts work over all runs, in any unit: steps, each times what a step of its run costs."""

    def __init__(self, total_work: float, total_runs: int, terminal: bool | None = None):
        self.total_work, self.total_runs = total_work, total_runs
        self.work, self.runs = 0.0, 0
        self.begin = self.last_line = time.monotonic()
        self.bar = None
        if sys.stderr.isatty() if terminal is None else terminal:
            from tqdm import tqdm

            form = "{desc} |{bar}| {percentage:3.0f} % {elapsed}, {remaining} left"
            self.bar = tqdm(total=total_work, bar_format=form, dynamic_ncols=True, smoothing=0.02, mininterval=0.5)

    def step(self, run: str, step: int, loss: float, work: float = 1.0, of: int = 0) -> None:
        """``work`` more was done; the newest was step ``step`` (of ``of``) of ``run``."""
        self.work += work
        now = f"runs {self.runs}/{self.total_runs} | {run} step {step}/{of} loss {loss:.3f}"
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

    def left(self) -> str:
        """Time left at the speed so far, as m:ss."""
        spent = time.monotonic() - self.begin
        seconds = int(spent / max(self.work, 1e-9) * max(self.total_work - self.work, 0))
        return f"{seconds // 60}:{seconds % 60:02d}"

    def close(self) -> None:
        """Leave the terminal clean."""
        if self.bar is not None:
            self.bar.close()

"""How far a study is: a bar on a terminal, plain lines elsewhere (papermill, JupyterLab, log files)."""

from __future__ import annotations

import sys
import time

LINE_SECONDS = 20.0


class Progress:
    """Counts steps over all runs. ``step`` may be called often; it draws at most twice a second."""

    def __init__(self, total_steps: int, total_runs: int, terminal: bool | None = None):
        self.total_steps, self.total_runs = total_steps, total_runs
        self.steps = self.runs = 0
        self.begin = self.last_line = time.monotonic()
        self.bar = None
        if sys.stderr.isatty() if terminal is None else terminal:
            from tqdm import tqdm

            self.bar = tqdm(total=total_steps, unit="step", dynamic_ncols=True, smoothing=0.05, mininterval=0.5)

    def step(self, run: str, step: int, loss: float, count: int = 1, of: int = 0) -> None:
        """``count`` more steps were made; the newest was step ``step`` (of ``of``) of ``run``."""
        self.steps += count
        now = f"runs {self.runs}/{self.total_runs} | {run} step {step}/{of} loss {loss:.3f}"
        if self.bar is not None:
            self.bar.set_description_str(now, refresh=False)
            self.bar.update(count)
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
        seconds = int(spent / max(self.steps, 1) * max(self.total_steps - self.steps, 0))
        return f"{seconds // 60}:{seconds % 60:02d}"

    def close(self) -> None:
        """Leave the terminal clean."""
        if self.bar is not None:
            self.bar.close()

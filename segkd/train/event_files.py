"""TensorBoard, where it is asked for: the rows of a run's ``metrics.jsonl`` as event files in the run's folder."""

from __future__ import annotations

import os
from pathlib import Path

from segkd.registry import UserError

WANTED = "SEGKD_TENSORBOARD"  # set to 1, or `--tensorboard`; worker processes and Ray tasks see it too
PATTERN = "events.out.tfevents.*"


class EventFiles:
    """Writes the rows of one run that no earlier process has written; ``rows``: those that its checkpoint brought.

    UserError where TensorBoard is not installed.
    """

    def __init__(self, folder: Path, rows: list[dict]):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError('--tensorboard: TensorBoard is not installed; pip install tensorboard') from error
        begun = any(folder.glob(PATTERN))
        self.written = len(rows) if begun else 0  # without files of before, what was logged so far is written too
        # What a process wrote beyond the checkpoint that is gone on from is not shown.
        self.writer = SummaryWriter(str(folder), purge_step=rows[-1]["step"] + 1 if begun and rows else None)

    def write(self, rows: list[dict]) -> None:
        """Every number of the new rows, as ``train/loss`` or ``val/miou`` over the step."""
        for row in rows[self.written :]:
            for name, value in row.items():
                if name != "step" and isinstance(value, (int, float)):
                    self.writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])
        self.written = len(rows)
        self.writer.flush()

    def close(self) -> None:
        """Leave the file whole."""
        self.writer.close()


def event_files(folder: Path, rows: list[dict]) -> EventFiles | None:
    """The `EventFiles` of a run, or None where nobody asked for them."""
    return EventFiles(folder, rows) if os.environ.get(WANTED, "0") not in ("", "0") else None

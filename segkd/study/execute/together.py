"""One run by all the processes that torchrun started; the first one shows how far it is."""

from __future__ import annotations

from segkd.config import RunConfig
from segkd.runs import Run, find, run
from segkd.study.execute.jobs import step_cost, with_teachers
from segkd.study.execute.progress import Progress
from segkd.train.processes import is_first, process_group


def train_together(config: RunConfig) -> Run | None:
    """The run, trained (its teacher first) or resumed by all processes; None in all but the first."""
    with process_group() as device:
        if not is_first():
            run(config, str(device))
            return None
        missing = {key: c for key, c in with_teachers([config]).items() if not find(c).done}
        progress = Progress(sum(c.schedule.steps * step_cost(c) for c in missing.values()), len(missing))

        def report(key: str, row: dict[str, float]) -> None:
            schedule = missing[key].schedule
            progress.step(key, row, schedule.steps, step_cost(missing[key]), schedule.batch_size)

        try:
            found = run(config, str(device), report)
            for key, known in missing.items():
                progress.finished(key, find(known).result["miou"])
            return found
        finally:
            progress.close()

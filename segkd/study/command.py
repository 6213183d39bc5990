"""What `segkd study` does: train the missing runs of one study, or say what that would take."""

from __future__ import annotations

from collections.abc import Iterator

from segkd.config import runs_root
from segkd.data import create_dataset
from segkd.study import forecast
from segkd.study.execute.executor import check_executor, default_devices, execute
from segkd.study.execute.jobs import with_teachers
from segkd.study.execute.ray_cluster import cluster_slots
from segkd.study.numbers.costs import classes_of
from segkd.study.numbers.study import open_study
from segkd.train.runtime import pick_device


def study_lines(
    name: str, profile: str, dataset: str, executor: str, resources: str | None, dry_run: bool, **choice: str | None
) -> Iterator[str]:
    """Train what is missing of the study ``name``, or with ``dry_run`` forecast it; lines to print.

    ``choice`` as `open_study` takes it, ``executor`` and ``resources`` as `execute` does. Mistyped names are found before
    anything is trained, and so is a data set that is not there.
    """
    study = open_study(name, profile, dataset, **choice)
    check_executor(executor, study.devices, resources)
    configs = study.configs()
    if dry_run:
        devices = study.devices or default_devices()
        for device in devices:
            pick_device(device)
        workers = cluster_slots(resources) if executor == "ray" else len(devices)
        yield from forecast.forecast_lines(forecast.forecast(configs, classes_of(dataset), workers), configs, workers)
        return
    for split in ("train", "val", study.data.split):
        create_dataset(dataset, split=split)
    execute(configs, None if executor == "ray" else study.devices, executor, resources)
    yield f"all {len(with_teachers(configs))} runs of {name}, {profile} on {dataset}, are in {runs_root()}"

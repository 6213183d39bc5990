"""Export: every format against its run, at sizes that were never traced, and what is refused; docs/deploy.md as printed."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from segkd import export, formats
from segkd.cli import main
from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.models import create_model, list_models
from segkd.models.deploy import AnySizePool, any_size_pools, deployed
from segkd.predict.network import label_maps, load
from segkd.prediction import resize_scores
from segkd.registry import UserError
from segkd.runs import Run, load_run, run, split_of

PAGE = Path(__file__).parents[1] / "docs" / "deploy.md"
DATA = DataConfig(size=(48, 64), train_limit=8, eval_limit=4)
CONFIG = RunConfig(DATA, NetworkConfig("pspnet/resnet18", 0.125), Schedule(steps=2, batch_size=2, validations=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of runs with one trained network, on one thread."""
    root, threads = tmp_path_factory.mktemp("exported"), torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGKD_RUNS", str(root / "runs"))
        run(CONFIG, "cpu")
        yield root
    torch.set_num_threads(threads)


@pytest.fixture
def trained(folder, tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return load_run(CONFIG.id)


def lively(name: str, **options) -> nn.Module:
    """A network whose batch norms do something."""
    torch.manual_seed(0)
    model = create_model(*name.split("/"), classes=5, width=0.125, **options)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_()
    return model.eval()


def own_scores(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return resize_scores(model(images).logits, tuple(images.shape[-2:]), model.align_corners)


def assert_close(made, wanted):
    assert made.shape == wanted.shape and (made - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * ("101" in n)) for n in list_models()])
def test_deployed_is_the_network_without_norms_and_auxiliary_head(name):
    model = lively(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    bare = deployed(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in bare.modules()) and not bare.training
    assert any("aux_head" in key for key in bare.state_dict()) == model.head.aux_needed
    assert not any("detail_head" in key for key in bare.state_dict())
    images = torch.rand(2, 3, 69, 94)
    for copy in (bare, any_size_pools(deployed(model))):
        assert_close(copy(images), own_scores(model, images))
    assert torch.equal(deployed(model, argmax=True)(images), bare(images).argmax(1))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_deployed_computes_alike_in_channels_last():
    model = lively("fcn/resnet50")
    images = torch.rand(2, 3, 48, 64)
    assert_close(deployed(model)(images.to(memory_format=torch.channels_last)), own_scores(model, images))
    assert_close(deployed(model.to(memory_format=torch.channels_last))(images), own_scores(model, images))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_any_size_pool_is_adaptive_pooling(height, width, bins):
    maps = torch.randn(2, 3, height, width, dtype=torch.float64)
    assert torch.allclose(AnySizePool(bins)(maps), nn.functional.adaptive_avg_pool2d(maps, bins))


@pytest.mark.parametrize("argmax", [False, True])
@pytest.mark.parametrize("format", ["torchscript", "safetensors"])
def test_torch_formats(trained, format, argmax):
    found = export.export_run(trained, format, argmax=argmax)
    assert found.path == Path(trained.id + export.FORMATS[format].suffix) and found.bytes == found.path.stat().st_size
    assert found.images == 4 and found.miou == pytest.approx(trained.result["miou"], abs=1e-6) == found.run_miou
    assert found.difference < 1e-5 and found.seconds > 0 < found.run_seconds
    assert found.run_bytes == (trained.path / "model.safetensors").stat().st_size
    assert format != "safetensors" or found.bytes < found.run_bytes
    images = torch.rand(3, 3, 57, 39)
    made, wanted = export.FORMATS[format].load(found.path)(images), own_scores(trained.load_model(), images)
    assert torch.equal(made, wanted.argmax(1)) if argmax else assert_close(made, wanted) is None
    assert sorted(Path().iterdir()) == sorted([found.path, found.path.with_suffix(".md")]), "the file and its card alone"


def test_a_float64_run_is_written_in_float32(trained):
    double = run(replace(CONFIG, schedule=replace(CONFIG.schedule, precision="float64")), "cpu")
    images = torch.rand(2, 3, 48, 64)
    for format in ("safetensors", "torchscript", "onnx"):
        found = export.FORMATS[format].load(export.export_run(double, format, Path(f"{format}.file")).path)(images)
        assert found.dtype == torch.float32
        assert_close(found.detach().double(), own_scores(double.load_model(), images))


def test_onnx_and_the_page_as_printed(trained, capsys):
    (command,) = re.findall(r"```bash\nsegkd (.*?)\n```", PAGE.read_text())
    assert main([trained.id if word == "RUN" else word for word in command.split()]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("student.onnx") and len(printed) == 5 and f"run {trained.result['miou']:.4f}" in printed[-1]
    assert sorted(os.listdir()) == ["student.md", "student.onnx"]
    packed = split_of(CONFIG, "test")
    Image.fromarray(np.asarray(packed.images[0])).save("street.png")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    assert len(code.strip().splitlines()) <= 15
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(packed.classes)
    labels = torch.from_numpy(np.asarray(Image.open("labels.png")).astype(np.int64))
    image = Image.open("street.png").resize((128, 96))
    wanted = own_scores(trained.load_model(), torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1)[None] / 255)
    assert labels.shape == (96, 128) and (labels == wanted.argmax(1)[0]).float().mean() > 0.999


def test_onnx_scores_at_other_sizes(trained):
    found = export.export_run(trained, "onnx", Path("deep/er/student.onnx"))
    model = trained.load_model()
    for batch, height, width in ((1, 32, 32), (2, 57, 101), (3, 96, 33)):
        images = torch.rand(batch, 3, height, width)
        assert_close(formats.load_onnx(found.path)(images), own_scores(model, images))
    assert found.bytes < 1.1 * found.run_bytes and os.fsencode(Path(export.__file__).parent) not in found.path.read_bytes()
    graph = onnx.load(found.path).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim][1] == 3


def test_int8_and_fp16_say_what_predict_needs_and_stay_near_the_run(trained):
    images = list(split_of(CONFIG, "test").images)
    wanted = [own_scores(trained.load_model(), torch.from_numpy(i.copy()).permute(2, 0, 1)[None] / 255).argmax(1)[0].numpy() for i in images]
    for format, agreement in (("int8", 0.8), ("fp16", 0.99)):
        found = export.export_run(trained, format, loss=1.0)
        network = load(found.path)
        assert network.classes == tuple(trained.result["classes"]) and network.size == DATA.size and network.smallest == 32
        assert np.mean([m == w for m, w in zip(label_maps(network, images), wanted)]) > agreement
        card = found.path.with_suffix(".md").read_text()
        assert f"run {found.run_miou:.4f}" in card and trained.id in card and "starting weights | random" in card
    kinds = {node.op_type for node in onnx.load(trained.id + ".int8.onnx").graph.node}
    assert "QuantizeLinear" in kinds and "BatchNormalization" not in kinds
    left = sorted(os.listdir())
    with pytest.raises(UserError, match="int8 export has mIoU .* apart; not written"):
        export.export_run(trained, "int8", Path("lossy.onnx"), loss=-1.0)
    assert sorted(os.listdir()) == left


SMALL_ENCODERS = ("resnet18", "mobilenet_v2", "hrnet_w18_small", "stdc1", "vits14")
SMALLEST = [name for name in list_models() if name.split("/")[1] in SMALL_ENCODERS]
SMALLEST.remove("isanet/resnet18")  # its blocks stay as the traced image had them: `export_run` finds the difference and refuses


COARSE = {"output_stride": 32}, ((1, 128, 128), (2, 139, 170), (1, 192, 353))  # takes no small images


@pytest.mark.parametrize("name, options, sizes", [
    *(pytest.param(name, {}, ((1, 69, 94),), marks=pytest.mark.slow) for name in SMALLEST),
    ("pspnet/resnet18", *COARSE), ("deeplabv3plus/resnet18", *COARSE),
])  # fmt: skip
def test_every_architecture_as_onnx(name, options, sizes, trained, tmp_path):
    model = lively(name, **options)
    formats.write_onnx(deployed(model), trained, tmp_path / "x.onnx")
    for batch, height, width in sizes:
        images = torch.rand(batch, 3, height, width)
        assert_close(formats.load_onnx(tmp_path / "x.onnx")(images), own_scores(model, images))


@pytest.mark.parametrize("error", [0.5, float("nan")])
def test_an_export_that_disagrees_is_not_written(trained, monkeypatch, error):
    def wrong(network, argmax):
        model = deployed(network, argmax)
        model.network.head.classifier.bias[0] += error
        return model

    monkeypatch.setattr(export, "deployed", wrong)
    for format, argmax in (("torchscript", True), ("safetensors", False)):
        with pytest.raises(UserError, match="differs from run .* not written"):
            export.export_run(trained, format, argmax=argmax)
    assert os.listdir() == []


@pytest.mark.parametrize("format", [name for name in export.FORMATS if name != "fp16"])
def test_a_full_or_a_closed_place_is_one_line_and_nothing_is_left(trained, format):
    with pytest.raises(UserError, match="/proc/a.file: cannot be written"):
        export.export_run(trained, format, Path("/proc/a.file"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a file may have 20 kB, as on a disk that is full
    try:
        with pytest.raises(UserError, match=r"cannot be written \(File too large\)"):
            export.export_run(trained, format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir() == []
    Path("folder").mkdir()
    assert export.export_run(trained, format, Path("folder")).path == Path("folder", trained.id + export.FORMATS[format].suffix)
    assert len(os.listdir("folder")) == 2


def test_without_the_data_the_scores_are_still_compared(trained, monkeypatch):
    def gone(config, split):
        raise UserError("not here")

    monkeypatch.setattr(export, "split_of", gone)
    found = export.export_run(trained, "safetensors")
    assert found.miou is None and found.images == 0 and found.difference < 1e-5 and "not compared" in found.lines()[-1]


def other_run(trained: Run, **result) -> str:
    """A finished run of another seed with another result; without one, an unfinished run."""
    config = replace(CONFIG, seed=1 + len(result))
    folder = trained.path.parent / config.id
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained.path, folder)
    values = json.loads((folder / "config.json").read_text()) | {"seed": config.seed}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "result.json").unlink()
    if result:
        (folder / "result.json").write_text(json.dumps(trained.result | result))
    return config.id


def test_bad_input_is_one_line_and_leaves_nothing(trained, capsys, monkeypatch):
    Path("there.onnx").touch()
    Path("junk").mkdir()
    teacher, unfinished = other_run(trained, label_input=True), other_run(trained)
    cases = {
        (trained.id, "--format", "onx"): "unknown format 'onx': did you mean 'onnx'",
        ("no-such-run",): "run 'no-such-run' not found",
        (trained.id, "--out", "there.onnx"): "'there.onnx' is there already",
        (teacher,): "is a label-assisted teacher: it reads the ground truth",
        (unfinished,): "is not finished",
    }
    for arguments, words in cases.items():
        assert main(["export", *arguments]) == 2
        printed = capsys.readouterr().err.strip()
        assert words in printed and len(printed.splitlines()) == 1
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    assert main(["export", trained.id]) == 2
    assert "format 'onnx' needs the package onnx: pip install 'segkd[export]'" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["junk", "there.onnx"] and not os.listdir("junk")
    with pytest.raises(UserError, match="not written by `segkd export`"):
        formats.load_safetensors(trained.path / "model.safetensors")

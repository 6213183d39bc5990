"""`segkd predict` with real ONNX files made by hand: without torch, against numpy, in tiles, and what is refused."""

import csv
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from segkd.cli import main
from segkd.metrics import confusion_matrix, scores
from segkd.predict.network import label_maps, load

CLASSES, PALETTE = ["red", "green", "blue"], [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
ABOUT = {"classes": CLASSES, "palette": PALETTE, "size": None, "smallest": 16, "masks": {"holds": "index", "values": [0, 1, 2], "ignored": [255]}}
WITHOUT_TORCH = """
import sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm", "pandas", "scipy", "yaml", "tqdm"):
            raise ImportError(name)
sys.meta_path.insert(0, Gone())
from segkd.cli import main
sys.exit(main())
"""


def write_network(path: Path, side: int = 1, gain: tuple = (1, 1, 1), **about) -> Path:
    """The score of a class is the mean of its colour over ``side`` x ``side`` pixels times its ``gain``."""
    weight = np.zeros((3, 3, side, side), np.float32)
    for channel in range(3):
        weight[channel, channel] = gain[channel] / side**2
    free = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 3, "h", "w"])  # noqa: E731
    node = helper.make_node("Conv", ["images", "weight"], ["scores"], pads=[side // 2] * 4)
    graph = helper.make_graph([node], "mean", [free("images")], [free("scores")], [numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {key: json.dumps(value) for key, value in {**ABOUT, **about}.items()})
    onnx.save(model, path)
    return path


def write_image(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(image).save(path)
    return image


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working folder with a network and two images of other sizes, one smaller than the network takes."""
    monkeypatch.chdir(tmp_path)
    write_network(Path("a.onnx"))
    write_image(Path("in/street.png"), 40, 70, 1)
    write_image(Path("in/deep/small.png"), 9, 33, 2)
    return tmp_path


def test_without_torch_masks_overlays_and_areas_are_the_networks(place):
    command = [sys.executable, "-c", WITHOUT_TORCH, "predict", "a.onnx", "in", "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(Path(__file__).parents[1])})
    assert done.returncode == 0, done.stderr
    table = {row["image"]: row for row in csv.DictReader(open("out/areas.csv"))}
    assert set(table) == {"street", "deep/small"}
    for name in table:
        wanted = np.asarray(Image.open(f"in/{name}.png")).argmax(-1)
        mask = Image.open(f"out/masks/{name}.png")
        assert mask.mode == "P" and mask.getpalette()[:9] == sum(PALETTE, []) and np.array_equal(np.asarray(mask), wanted)
        assert [int(table[name][c]) for c in CLASSES] == np.bincount(wanted.ravel(), minlength=3).tolist()
        assert Image.open(f"out/overlays/{name}.jpg").size == mask.size
    assert not list(Path("out").rglob("*.part"))


@pytest.mark.parametrize("size", [(40, 70), (300, 900), (1000, 1000)])
def test_tiles_give_the_map_of_the_whole_image(place, size):
    image = write_image(Path("large.png"), *size)
    network = load(write_network(Path("wide.onnx"), side=9))
    (whole,), (tiled,) = label_maps(network, [image], tile=4096), label_maps(network, [image], batch=3, tile=256)
    assert np.array_equal(whole, tiled) and len(np.unique(whole)) == 3


def test_images_are_resized_as_the_run_saw_them(place):
    image = write_image(Path("x.png"), 50, 90)
    (found,) = label_maps(load(write_network(Path("fixed.onnx"), size=[25, 45])), [image])
    small = np.asarray(Image.fromarray(image).resize((45, 25), Image.Resampling.BILINEAR), np.float32)
    wanted = np.stack([np.asarray(Image.fromarray(small[..., c]).resize((90, 50), Image.Resampling.BILINEAR)) for c in range(3)]).argmax(0)
    assert (found == wanted).mean() > 0.999


def test_scores_are_those_of_the_metrics_and_two_files_are_compared(place, capsys):
    write_network(Path("b.onnx"), gain=(1, 1, 0.5))
    names, total = ["deep/small", "street"], torch.zeros(2, 3, 3, dtype=torch.int64)
    for name in names:
        image = np.asarray(Image.open(f"in/{name}.png"))
        label = np.random.default_rng(5).choice([0, 1, 2, 255], image.shape[:2]).astype(np.uint8)
        Path("truth", name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(f"truth/{name}.png")
        for k, gain in enumerate(((1, 1, 1), (1, 1, 0.5))):
            made = torch.from_numpy((image * np.float32(gain)).argmax(-1))
            total[k] += confusion_matrix(made, torch.from_numpy(label), 3)
    assert main("predict a.onnx in --out out --labels truth --against b.onnx".split()) == 0
    said = capsys.readouterr().out
    wanted = [scores(counts)["miou"] for counts in total]
    assert f"mIoU {wanted[0]:.1%}, against {wanted[1]:.1%} on 2 images" in said and "agreement" in said
    rows = list(csv.DictReader(open("out/images.csv")))
    assert [row["image"] for row in rows] == names and all(float(row["agreement"]) < 1 for row in rows)
    assert main("predict a.onnx in --out out --labels truth --against a.onnx".split()) == 0
    assert "agreement 100.00%" in (again := capsys.readouterr().out) and "difference 0.0 points" in again


def test_bad_input_is_one_line_and_leaves_nothing(place, capsys):
    Path("junk.onnx").write_bytes(b"no network")
    write_network(Path("other.onnx"), classes=["x", "y", "z"])
    model = onnx.load("a.onnx")
    del model.metadata_props[:]
    onnx.save(model, "foreign.onnx")
    Path("empty").mkdir()
    write_image(Path("twice/street.png"), 8, 8)
    cases = {
        "gone.onnx in": "no file 'gone.onnx'",
        "junk.onnx in": "is no ONNX file",
        "foreign.onnx in": "does not say its classes",
        "a.onnx empty": "no images in empty",
        "a.onnx nowhere": "no image or folder 'nowhere'",
        "a.onnx in twice": "would both be 'street'",
        "a.onnx in --labels empty": "no mask 'empty/deep/small.png'",
        "a.onnx in --against other.onnx": "different classes",
        "a.onnx in --tile 100": "a tile 256 or more",
    }
    for arguments, words in cases.items():
        assert main(["predict", *arguments.split(), "--out", "out"]) == 2
        error = capsys.readouterr().err.strip()
        assert words in error and len(error.splitlines()) == 1 and not Path("out").exists()
    Path("mine/masks").mkdir(parents=True)
    assert main("predict a.onnx in --out mine".split()) == 2 and "of somebody else" in capsys.readouterr().err


def test_one_bad_image_or_mask_is_named_and_the_others_are_done(place, capsys):
    Path("in/cut.png").write_bytes(Path("in/street.png").read_bytes()[:200])
    for name, value in (("street", 7), ("deep/small", 1), ("cut", 0)):
        Path("truth", name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 70) if name == "street" else (9, 33), value, np.uint8)).save(f"truth/{name}.png")
    assert main("predict a.onnx in --out out --labels truth".split()) == 2
    error = capsys.readouterr().err
    assert "2 of 3 images could not be used" in error and "in/cut.png cannot be read" in error and "holds the label 7 in 2800 pixels: classes are 0-2" in error
    assert [p.name for p in Path("out/masks").rglob("*.png")] == ["small.png"]


def test_a_full_disk_is_one_line_and_no_half_file(place, capsys):
    write_image(Path("in/zlarge.png"), 400, 400)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard))  # a file may have 8 kB, as on a disk that is full
    try:
        assert main("predict a.onnx in --out out".split()) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "zlarge.png: cannot be written (File too large)" in capsys.readouterr().err
    assert sorted(p.name for p in Path("out").rglob("*.p*")) == ["small.png", "street.png"]

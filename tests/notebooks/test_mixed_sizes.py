"""A folder whose images differ in size goes the whole way at their own sizes: verified, trained, measured, every page, frozen, reported."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from segkd.analysis.boundary import boundary_band
from segkd.cli import main
from segkd.config import ROOT, DataConfig
from segkd.metrics import scores
from segkd.runs import load_run, split_of
from segkd.study.claims import mechanisms
from segkd.study.gaps import gaps_of
from segkd.study.report.reproduce import NOTEBOOKS, make_report, reproduce
from segkd.study.tables import profiles

SIZES = [(48, 64), (64, 48), (40, 72), (57, 51)]
IMAGES = {"train": 8, "val": 3, "test": 4}
OWN_SIZES = DataConfig(size=None, crop=(40, 48), scale=(1.0, 1.5))
PATCH = f"""
from dataclasses import replace
from segkd.config import DataConfig
from segkd.study.tables.profiles import PROFILES
PROFILES["smoke"] = replace(PROFILES["smoke"], data={OWN_SIZES!r})
"""


def write_folder(folder: Path) -> Path:
    """Images of four sizes: ground, a box and a pole on each image, void along the top."""
    random = np.random.default_rng(0)
    for split, count in IMAGES.items():
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            height, width = SIZES[index % len(SIZES)]
            label = np.zeros((height, width), np.uint8)
            top, left = random.integers(8, 16, 2)
            label[top : top + 20, left : left + 24], label[10:, width - 8 : width - 5], label[:3] = 1, 2, 255
            image = random.integers(0, 60, (height, width, 3)) + 60 * np.minimum(label, 3)[..., None]
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "images" / split / f"{index}.png")
            Image.fromarray(label).save(folder / "masks" / split / f"{index}.png")
    (folder / "segkd.yaml").write_text("classes: [ground, box, pole]\nignore: 255\n")
    return folder


@pytest.fixture
def report(tmp_path, monkeypatch):
    """The smoke profile at the images' own sizes, here and in the pages' own processes; gives the report's folder."""
    for name, place in (("SEGKD_DATA", write_folder(tmp_path / "mine")), ("SEGKD_RUNS", tmp_path / "runs")):
        monkeypatch.setenv(name, str(place))
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "sitecustomize.py").write_text(PATCH)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'kernels'}:{ROOT}")
    monkeypatch.setitem(profiles.PROFILES, "smoke", replace(profiles.PROFILES["smoke"], data=OWN_SIZES))
    monkeypatch.delitem(NOTEBOOKS, "analysis/cost")  # looks at no image
    monkeypatch.setattr("segkd.study.report.reproduce.build_site", lambda reports: None)  # the page above the committed reports stays
    folder = ROOT / "reports" / "smoke-folder"
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def pages(report: Path) -> list[dict]:
    """The cells of all executed notebooks, whose pages are there and show pictures."""
    names = [name.split("/")[-1] for name in NOTEBOOKS]
    assert all("<img" in (report / f"{name}.html").read_text() for name in names)
    return [cell for name in names for cell in json.loads((report / "pages" / f"{name}.ipynb").read_text())["cells"]]


@pytest.mark.slow
def test_from_the_folder_to_the_last_page(report, tmp_path, monkeypatch, capsys):
    main(["data", "folder"])
    assert "train 8, val 3, test 4 images verified" in capsys.readouterr().out
    choice = {"methods": "kd,cwd,fakd_cwd,hwd,kd+rdd,lad+cwd", "tables": "main,lad/shortcut,lad/noise"}
    reproduce("smoke", "folder", **choice)
    assert not any(gaps_of(cell) for cell in pages(report))

    claims = pd.read_csv(report / "figures" / "claims.csv")
    why = claims.loc[claims["verdict"] == "not run", "reason"]
    assert why.str.contains("not trained|not measured by themselves|has no value on these runs").all()
    results = pd.read_csv(report / "results.csv")
    (run,) = (load_run(name) for name in results.loc[(results["table"] == "main") & (results["row"] == "HWD"), "run"].unique())
    test, network = split_of(run.config, "test"), run.load_model()
    assert test.size is None and [label.shape for label in test.labels] == SIZES
    whole, flat, near = (np.zeros((3, 3), int) for _ in range(3))
    for image, label in zip(test.images, test.labels):
        for count, shown, where in (
            (whole, image, label != 255), (near, image, boundary_band(torch.from_numpy(label.copy()).long()[None], 2)[0].numpy()),
            (flat, np.broadcast_to(image.mean((0, 1)).round(), image.shape), label != 255),
        ):  # fmt: skip
            x = torch.from_numpy(shown / 255).permute(2, 0, 1)[None].float()
            with torch.no_grad():
                scored = torch.nn.functional.interpolate(network(x).logits, label.shape, mode="bilinear", align_corners=True)
            np.add.at(count, (label[where], scored.argmax(1)[0].numpy()[where]), 1)
    score, score_flat, score_near = (scores(count)["miou"] for count in (whole, flat, near))
    assert run.result["miou"] == pytest.approx(score, abs=2e-4) and mechanisms.boundary_miou(run) == pytest.approx(score_near, abs=2e-4)
    assert mechanisms.plain_image_drop(run) == pytest.approx(score - score_flat, abs=4e-4)
    with np.load(report / "images.npz") as frozen:
        assert frozen["labels"].tolist() == [np.bincount(label.ravel(), minlength=256)[:3].tolist() for label in test.labels]

    shutil.rmtree(tmp_path / "runs")
    for name in set(NOTEBOOKS) - {"00_tour", "90_claims"}:
        monkeypatch.delitem(NOTEBOOKS, name)
    make_report("smoke", "folder", **choice)
    pages(report)
    again = pd.read_csv(report / "figures" / "claims.csv")
    pd.testing.assert_series_equal(again["verdict"], claims["verdict"])

"""A folder whose images differ in size goes the whole way at their own sizes: verified, trained, measured, every page, frozen, reported."""

import json
import shutil
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from segkd.cli import main
from segkd.config import ROOT, DataConfig
from segkd.metrics import confusion_matrix, scores
from segkd.runs import load_run, split_of
from segkd.study.gaps import gaps_of
from segkd.study.report.reproduce import NOTEBOOKS, make_report, reproduce
from segkd.study.tables import profiles
from segkd.train.evaluate import batches

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
    """Ground, a box and a pole on each image, void along the top."""
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


@pytest.mark.slow
def test_from_the_folder_to_the_last_page(tmp_path, monkeypatch, capsys):
    for name, place in (("SEGKD_DATA", write_folder(tmp_path / "mine")), ("SEGKD_RUNS", tmp_path / "runs")):
        monkeypatch.setenv(name, str(place))
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "sitecustomize.py").write_text(PATCH)  # the pages' own processes see the same profile
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'kernels'}:{ROOT}")
    monkeypatch.setitem(profiles.PROFILES, "smoke", replace(profiles.PROFILES["smoke"], data=OWN_SIZES))
    report = ROOT / "reports" / "smoke-folder"
    shutil.rmtree(report, ignore_errors=True)

    main(["data", "folder"])
    assert "train 8, val 3, test 4 images verified" in capsys.readouterr().out
    choice = {"methods": "kd,cwd,fakd_cwd,hwd,kd+rdd,lad+cwd", "tables": "main,lad/shortcut,lad/noise"}
    reproduce("smoke", "folder", **choice)
    for name in NOTEBOOKS:
        page, notebook = (report / f"{name.split('/')[-1]}.html"), report / "pages" / f"{name.split('/')[-1]}.ipynb"
        assert "<img" in page.read_text() and "Traceback" not in page.read_text()
        cells = json.loads(notebook.read_text())["cells"]
        assert not any(gaps_of(cell) for cell in cells)

    claims = pd.read_csv(report / "figures" / "claims.csv")
    print(claims.to_string())
    measures = pd.read_csv(report / "measures.csv")
    assert measures["value"].notna().all()

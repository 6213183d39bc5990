"""A reader's mistake in the parameters of a notebook is one line in the cell that meets it, and trains and writes nothing."""

import json
import subprocess
import sys

import nbformat
import papermill
import pytest

from segkd.config import ROOT

MISTAKES = [
    ("00_tour", {"PROFILE": "smok"}, "did you mean 'smoke'"),
    ("papers/lad", {"METHODS": "cwdd"}, "did you mean 'cwd'"),
    ("papers/fakd", {"SEEDS": "a"}, "SEEDS: 'a'"),
    ("papers/hwd", {"TABLES": "mian"}, "did you mean 'main'"),
    ("papers/rdd", {"STUDENT": "deeplabv3/resnet19"}, "did you mean 'deeplabv3/resnet18'"),
    ("90_claims", {"TRAIN": "hwd-99"}, "did you mean 'hwd-09'"),
    ("analysis/cost", {"COUNT_SIZE": 1024}, "COUNT_SIZE: expected (int >= 1, int >= 1), got 1024"),
    ("analysis/difficulty", {"PICTURE": -1}, "PICTURE: expected int >= 0, got -1"),
    ("analysis/predictions", {"FRAMES": 0}, "FRAMES: expected int >= 1, got 0"),
    ("analysis/feature_tsne", {"PERPLEXITIES": [0]}, "PERPLEXITIES: expected list of float > 0, got [0]"),
    ("analysis/shortcut_layercam", {"IMAGES": 0}, "IMAGES: expected int >= 1, got 0"),
    ("analysis/per_class_iou", {"DATASET": "scene"}, "did you mean 'scenes'"),
    ("analysis/variants", {"TEACHER": "pspnet/resnet18:nowhere.pth"}, "nowhere.pth; give a file that is there"),
    ("95_your_own_data", {"METHOD": "baseline"}, "METHOD: 'baseline' is what a method is compared with"),
]
SHELL = """
import io, json, sys
from contextlib import redirect_stdout
from IPython.core.interactiveshell import InteractiveShell
for cells in json.load(sys.stdin):
    shell, said = InteractiveShell(), io.StringIO()
    with redirect_stdout(said):
        for cell in cells:
            said.truncate(0), said.seek(0)
            if not shell.run_cell(cell).success:
                break
    print(json.dumps(said.getvalue()))
"""


def cells_of(name: str, parameters: dict) -> list[str]:
    """Its code down to the study, as a reader would have it who changed its parameters."""
    code = ["".join(cell["source"]) for cell in json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"] if cell["cell_type"] == "code"]
    last = next(index for index, cell in enumerate(code) if "study = " in cell)
    return [code[0] + "".join(f"\n{key} = {value!r}" for key, value in parameters.items()), *code[1 : last + 1]]


def test_it_is_one_line(tmp_path, monkeypatch):
    for name in ("SEGKD_RUNS", "IPYTHONDIR", "SEGKD_FIGURES"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    books = json.dumps([cells_of(name, wrong) for name, wrong, _ in MISTAKES])
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", SHELL], input=books, capture_output=True, text=True, cwd=ROOT)
    said = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(said) == len(MISTAKES), found.stderr
    for text, (name, _, words) in zip(said, MISTAKES):
        assert words in text and len(text.strip().splitlines()) == 1 and text.startswith("UserError: "), f"{name}: {text}"
    assert not (tmp_path / "segkd_runs").exists() and not (tmp_path / "segkd_figures").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "folder, words", [("nowher", "there is no {}: did you mean {}/nowhere? give the place"), ("nowhere", "no segkd.yaml in {}, {}/folder: describe the folder")]
)  # fmt: skip
def test_a_wrong_folder(runs, tmp_path, folder, words):
    """Through papermill; the notebook sets SEGKD_DATA itself, so no line speaks of it."""
    (tmp_path / "nowhere").mkdir()
    place, out = tmp_path / folder, tmp_path / "out.ipynb"
    with pytest.raises(papermill.PapermillExecutionError):
        parameters = {"FOLDER": str(place), "PROFILE": "smoke"}
        papermill.execute_notebook(ROOT / "notebooks" / "95_your_own_data.ipynb", out, parameters, kernel_name="python3", cwd=ROOT, progress_bar=False)
    outputs = [output for cell in nbformat.read(out, 4).cells for output in cell.get("outputs", []) if output.output_type == "error"]
    wanted = "UserError: FOLDER: " + words.format(place, tmp_path if "mean" in words else place)
    assert len(outputs) == 1 and len(outputs[0].traceback) == 1 and outputs[0].traceback[0].startswith(wanted)
    assert "\n" not in outputs[0].traceback[0] and "SEGKD_DATA" not in outputs[0].traceback[0]
    assert [path.name for path in (tmp_path / "nowhere").iterdir()] == [] and not runs.exists()

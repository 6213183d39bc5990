"""`segkd distill`: plans follow the minutes, bad folders are one line, and from a folder to page and file, twice."""

import numpy as np
import pytest
from PIL import Image

from segkd.cli import main
from segkd.study.distill import LEAST, USED, choose, what_more_buys
from segkd.study.lab import own_data


def seconds(students: int, seeds: int, steps: int) -> float:
    return 100 + seeds * (1 + students) * steps


@pytest.mark.parametrize(
    "minutes, steps, seeds, students",
    [(1, LEAST, 1, 1), (5, 77, 1, 1), (15, 332, 1, 1), (20, 306, 1, 2), (60, 800, 1, 2), (200, 800, 3, 2), (1000, 800, 5, 2)],
)
def test_minutes_buy_steps_then_students_then_seeds(minutes, steps, seeds, students):
    plan = choose(seconds, 60 * minutes, 800, 2)
    assert (plan.steps, plan.seeds, plan.students) == (steps, seeds, students)
    assert plan.seconds == seconds(students, seeds, steps) and (plan.seconds <= USED * 60 * minutes or minutes == 1)
    said = what_more_buys(plan, minutes, lambda more: choose(seconds, 60 * more, 800, 2))
    assert ("more than asked for" in "".join(said)) == (plan.seconds > 60 * minutes)
    assert bool(said) == (minutes < 1000) and all(line.startswith("MINUTES=") for line in said[minutes == 1 :])


@pytest.fixture
def place(tmp_path, runs, monkeypatch):
    monkeypatch.setenv("SEGKD_DATA", "")
    return tmp_path


@pytest.mark.parametrize("name, words", [
    ("nothing", "no segkd.yaml in"), ("no_masks", "no mask for"), ("one_class", "nothing but background"), ("binary", "nothing but background"),
])  # fmt: skip
def test_bad_folders_are_one_line_and_leave_nothing(place, capsys, name, words):
    folder = own_data.write_example(place / name, {"train": 2, "val": 2, "test": 2})
    for mask in folder.rglob("masks/*/*.png"):
        label = np.zeros(Image.open(mask).size[::-1], np.uint8)
        label[:20] = 255 if name == "binary" else 0
        mask.unlink() if name == "no_masks" else Image.fromarray(label).save(mask)
    if name == "nothing":
        (folder / "segkd.yaml").unlink()
    else:
        (folder / "segkd.yaml").write_text("classes: [background, thing]\n")
    assert main(["distill", "--data", str(folder), "--profile", "smoke", "--out", str(place / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and len(error.splitlines()) == 1, error
    assert not (place / "out").exists() and not (place / "runs").exists()


@pytest.mark.slow
def test_three_images_from_folder_to_page_and_file_and_again(place, capsys):
    folder = own_data.write_example(place / "mine", {"train": 1, "val": 1, "test": 1})
    call = ["distill", "--data", str(folder), "--profile", "smoke", "--student", "pspnet/resnet18", "--minutes", "1", "--out", str(place / "out")]
    assert main(call) == 0
    page, file = (line.split()[1] for line in capsys.readouterr().out.splitlines()[-2:])
    text = open(page).read()
    assert "Ship the baseline: 1 test images are too few" in text and "too few images" in text
    assert main(["predict", file, str(folder / "images" / "test"), "--out", str(place / "found"), "--labels", str(folder / "masks" / "test")]) == 0
    assert (place / "found" / "masks" / "0000.png").exists() and "mIoU" in capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in (place / "out").rglob("*") if path.is_file()}
    assert main(call) == 0
    assert times == {path: path.stat().st_mtime_ns for path in (place / "out").rglob("*") if path.is_file()}, "nothing is done twice"
    assert main([*call[:-1], str(place / "out"), "--minutes", "2"]) == 2 and "is of another call" in capsys.readouterr().err

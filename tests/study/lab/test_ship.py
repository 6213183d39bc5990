"""Which student to ship: the verdict follows its rule, tables say what the counts say, files are of what is shipped."""

import json

import numpy as np
import pytest

from segkd.runs import run
from segkd.study.lab import own_data, ship
from segkd.study.numbers.statistics import Estimate, image_difference, image_miou

NAN = float("nan")


def estimate(mean: float, low: float, high: float, n: int = 20) -> Estimate:
    return Estimate(n, mean, low, high, NAN, NAN)


@pytest.mark.parametrize(
    "images, seeds, real, words",
    [
        (estimate(2, 1, 3), estimate(2, NAN, NAN, 1), True, "Ship the student of cwd: it gains +2.0 (+1.0 to +3.0) points of mIoU on 20 test images; one training"),
        (estimate(2, 1, 3), estimate(2, -1, 5, 3), False, "Ship the baseline: the help of cwd is within chance between seeds"),
        (estimate(2, 1, 3), estimate(2, 1, 3, 3), True, "Ship the student of cwd"),
        (estimate(0.4, -1, 2), estimate(0.4, NAN, NAN, 1), False, "Ship the baseline: the help of cwd is within the choice of test images, +0.4"),
        (estimate(-2, -3, -1), estimate(-2, NAN, NAN, 1), False, "Ship the baseline: cwd does harm, −2.0 (−3.0 to −1.0)"),
        (estimate(9, NAN, NAN, 4), estimate(9, NAN, NAN, 1), False, "Ship the baseline: 4 test images are too few"),
    ],
)
def test_the_verdict_follows_from_the_intervals(images, seeds, real, words):
    found = ship.Help("cwd", images, seeds, estimate(5, 4, 6))
    assert found.real is real and found.sentence().startswith(words)
    assert "something to learn" in found.premise()
    assert "premise is open" in ship.Help("cwd", images, seeds, estimate(1, -1, 3)).premise()


def test_difference_over_images_pairs_them():
    draws = np.random.default_rng(0)
    labelled = draws.integers(50, 100, (30, 1, 3))
    hits = (labelled * draws.uniform(0.3, 0.6, (30, 1, 3))).astype(int)
    one, two = (np.concatenate([h, labelled, labelled], axis=1) for h in (hits, hits + 5))
    iou = [c.sum(0)[0] / (2 * c.sum(0)[1] - c.sum(0)[0]) for c in (one, two)]
    found = image_difference(two, one)
    assert found.mean == pytest.approx(100 * (iou[1] - iou[0]).mean()) and found.low < found.mean < found.high
    assert found.high - found.low < 3, "the images differ among themselves by far more than the two networks on each"
    assert np.allclose(image_miou(one), (hits / (2 * labelled - hits)).mean((1, 2)))
    assert np.isnan(image_difference(two[:4], one[:4]).low)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A trained study of a small example folder."""
    root = tmp_path_factory.mktemp("ship")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGKD_RUNS", str(root / "runs"))
        patch.setenv("SEGKD_DATA", "")
        folder = own_data.own_folder(own_data.write_example(root / "mine", {"train": 6, "val": 2, "test": 6}))
        (found,) = own_data.open_own(folder, "smoke", "cwd", seeds="1")
        for config in found.configs():
            run(config, "cpu")
        yield found


def test_tables_files_and_worst_images_are_of_the_run_that_is_shipped(study, tmp_path):
    mine = ship.shipped(study)
    assert mine.config.method == ("cwd" if ship.help_of(study).real else "baseline")
    (tmp_path / "student.onnx").write_text("of an earlier call")
    files = ship.write_files([study], str(tmp_path))
    (made, *_) = [made for _, made, _ in files if made]
    assert made.path == tmp_path / "student.onnx" and mine.id in made.path.with_suffix(".md").read_text()
    assert made.miou == pytest.approx(mine.result["miou"], abs=1e-3) and not list(tmp_path.glob(".export*"))
    assert all(made or "not written" in why for _, made, why in files)
    table = ship.files_table(files)
    assert table["file less run"].abs().max() <= 1.0 and (table["ms"] > 0).all()
    classes = ship.classes_table(study).set_index("class")
    base = study.runs(own_data.TABLE, "baseline")[0].result
    labelled = dict(zip(base["classes"], np.sum(base["confusion"], axis=1)))
    assert classes["test pixels"].to_dict() == labelled
    wanted = [NAN if v is None else 100 * v for v in base["iou"]]
    assert np.allclose(classes["baseline %"], wanted, equal_nan=True)
    worst = ship.worst(study, 3)
    assert worst["mIoU %"].is_monotonic_increasing and worst["mIoU %"].iloc[0] == pytest.approx(100 * np.nanmin(image_miou(mine.images())))
    json.dumps(worst["index"].tolist())
    dots, gaps = ship.frontier([study], files).said["marks"], ship.gap_figure(study).said
    assert mine.id in dots[-1][5] and len(dots) == sum(2 if made.format == "onnx" else 1 for _, made, _ in files if made)
    difference = ship.image_gaps(study)
    assert f"Better on {(difference > 0).sum()} of {np.isfinite(difference).sum()}" in gaps["message"]
    assert gaps["marks"][0][5].startswith(study.packed("test").names[np.nanargmin(difference)])
    assert "ship" in ship.side_by_side([study])

"""What charts carry to a page: findings, marks that lie over what is drawn, files of numbers; arrows, legends and axes."""

import matplotlib
import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from segkd.analysis import cost
from segkd.analysis.figures import chart, forest, pictures, plots, style, sweeps
from segkd.study.numbers.statistics import t_estimate

SCORES = pd.DataFrame({"row": ["baseline", "baseline", "CWD", "CWD"], "seed": [0, 1, 0, 1], "miou": [0.40, 0.42, 0.44, 0.45]})
SCORES.attrs = {"csv": "results.csv", "runs": {"CWD": ["cwd-s0-1", "cwd-s1-2"]}}


def told(figure):
    data, metadata = figure._repr_mimebundle_()
    return data, metadata["segkd"]


def test_a_chart_says_its_finding_its_runs_and_its_file():
    data, said = told(plots.comparison(SCORES))
    assert said["caption"] == "From the highest mean mIoU down: CWD 44.5 %, baseline 41.0 %." and said["alt"].startswith("Dot plot: mIoU of each row. From")
    assert said["csv"] == "results.csv" and data["image/svg+xml"].count("<svg") == 1
    texts = {text.partition(":")[0]: text for *_, text in said["marks"]}
    assert "44.50 % ± 0.71 (standard deviation)" in texts["CWD"] and texts["CWD"].endswith("seed 0: 44.00, seed 1: 45.00\ncwd-s0-1, cwd-s1-2")
    assert data == told(plots.comparison(SCORES))[0], "the same chart is the same file"


def test_a_chart_is_transparent_unless_its_colours_stand_for_numbers():
    """matplotlib writes the ground as the path patch_1 or patch_2, with no fill where it is transparent."""
    heat = plots.grid_heat(pd.DataFrame({"alpha": [0, 0.5, 1], "class_noise": "a", "teacher": [0.1, 0.2, 0.3]}), x="alpha", y="class_noise")
    for figure, scale in ((plots.comparison(SCORES), False), (heat, True)):
        data, said = told(figure)
        assert said["scale"] is scale and ("fill: #ffffff" in data["image/svg+xml"].split("patch_2")[0]) is scale


@pytest.mark.parametrize("size", [(4, 3), (7, 2)])
def test_marks_lie_over_what_is_drawn(size, tmp_path):
    """The dot is looked for in the picture of the same page, by its colour."""

    @style.styled
    def dot():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=size)
        axes.plot([0, 1, 5], [0, 2, 1], ls="", marker="o", color="white")
        axes.plot([1], [2], "o", color="#ff0000", ms=8)
        axes.set_ylabel("a label that takes room")
        return chart.tell(figure, "A dot", "Here.", [(axes, 1, 1, 2, 2, "it")])

    figure = dot()
    left, top, width, height, text = told(figure)[1]["marks"][0]
    figure.savefig(tmp_path / "dot.png", bbox_inches=figure.get_tightbbox().padded(0.06), dpi=200)
    rgb = matplotlib.image.imread(tmp_path / "dot.png")[..., :3]
    y, x = np.nonzero((rgb[..., 0] > 0.9) & (rgb[..., 1] < 0.2))
    assert text == "it" and left + width / 2 == pytest.approx(100 * x.mean() / rgb.shape[1], abs=1)
    assert top + height / 2 == pytest.approx(100 * y.mean() / rgb.shape[0], abs=1.5)


def test_pictures_stay_pictures_and_say_how_much_is_right():
    label, guess = np.array([[0, 1], [255, 1]], np.uint8), np.array([[0, 1], [2, 0]], np.uint8)
    figure = pictures.prediction_sheet([np.zeros((2, 2, 3), np.uint8)], [label], {"CWD": [guess]}, np.eye(3) * 255, ["road", "car", "bicyclist"])
    data, said = told(figure)
    assert not data and said["caption"] == "Right of the labelled pixels shown: CWD 66.7 %."
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["road", "car", "bicyclist", "void"], "what only a network says is in the legend"


def test_gains_beyond_the_axis_end_in_an_arrow_and_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKD_FIGURES", str(tmp_path))
    gains = {"CWD": t_estimate([2.0, 2.2, 1.8]), "LAD": t_estimate([-5.0, 4.0])}
    figure = forest.gain_dots(gains, {"CWD": ["a", "b"]}, "gains")
    assert sorted(line.get_marker() for line in figure.axes[0].lines if line.get_marker() in ("<", ">")) == ["<", ">"]
    said = told(figure)[1]
    assert said["csv"] == "figures/gains.csv" and said["caption"] == "With the whole interval above 0: CWD +2.0. Below 0: none. Of 2 in all."
    assert said["marks"][0][4] == "CWD: +2.0 (+1.5 to +2.5), 3 seeds\na, b"
    assert pd.read_csv(tmp_path / "gains.csv")["high"].tolist() == pytest.approx([gains["CWD"].high, gains["LAD"].high], rel=1e-5)


def test_a_sweep_has_the_papers_values_beside_it():
    frame = pd.DataFrame({"lambda": [0.5, 1.0, 2.5], "n": 3, "mean": [1.0, 0.0, -3.0], "low": [0.5, -1.0, -4.0], "high": [1.5, 1.0, -2.0], "paper": [1.24, 1.48, -1.87]})
    figure = sweeps.gain_curve(frame, "lambda", "CWD")
    crosses = next(line for line in figure.axes[0].lines if line.get_marker() == "x")
    assert list(crosses.get_ydata()) == [1.24, 1.48, -1.87]
    caption = told(figure)[1]["caption"]
    assert caption == "Told apart from CWD: λ 0.5: +1.0 (+0.5 to +1.5), λ 2.5: −3.0 (−4.0 to −2.0), of 3 settings. The paper's largest is +1.48 at λ 1."
    assert told(sweeps.gain_curve(frame.assign(paper=np.nan), "lambda", "CWD"))[1]["caption"].endswith("The paper draws its curve without numbers.")


def test_logarithmic_axes_have_plain_numbers():
    costs = pd.DataFrame({"network": ["fcn/a", "fcn/b"], "params M": 1.0, "GMACs timed": [1.0, 200.0], "ms": [3.0, 900.0]})
    figure = cost.cost_figure(costs)
    assert "100" in [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert not any("$" in t.get_text() for t in figure.findobj(matplotlib.text.Text))

"""The data behind figures: written where asked, whole, and only if something changed."""

import pandas as pd
import pytest

from segkd.analysis.style import keep, styled
from segkd.registry import UserError

FRAME = pd.DataFrame({"class": ["Pole, thin", "Gehweg ö"], "iou": [0.1234567, float("nan")]})


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in (None, ""):
        monkeypatch.delenv("SEGKD_FIGURES", raising=False) if value is None else monkeypatch.setenv("SEGKD_FIGURES", value)
        assert keep("per_class_iou", FRAME) is FRAME
    assert not list(tmp_path.iterdir())


def test_the_frame_can_be_read_back(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKD_FIGURES", str(tmp_path / "figures"))
    keep("per_class_iou", FRAME)
    back = pd.read_csv(tmp_path / "figures" / "per_class_iou.csv")
    pd.testing.assert_frame_equal(back, FRAME, rtol=1e-5)
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["per_class_iou.csv"]


def test_an_equal_frame_leaves_the_file_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKD_FIGURES", str(tmp_path))
    keep("curve", FRAME)
    before = (tmp_path / "curve.csv").stat().st_ino
    keep("curve", FRAME.copy())
    assert (tmp_path / "curve.csv").stat().st_ino == before
    keep("curve", FRAME.assign(iou=1.0))
    assert pd.read_csv(tmp_path / "curve.csv")["iou"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["", "../up", "a/b", "per class", "Upper", ".hidden"])
def test_a_name_that_is_no_file_name_is_refused(name):
    with pytest.raises(UserError, match="no name for a file"):
        keep(name, FRAME)


def test_a_name_is_never_read_as_a_formula():
    import io

    import matplotlib.pyplot as plt

    @styled
    def draw(names):
        figure, axes = plt.subplots()
        axes.bar(names, [1] * len(names))
        return figure

    figure = draw(["price $", "$\\frac{", "дорога", "a_b"])
    figure.savefig(io.BytesIO())
    assert not any(label.get_parse_math() for label in figure.axes[0].get_xticklabels())

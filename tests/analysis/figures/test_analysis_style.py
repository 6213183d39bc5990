"""The data behind figures: written where asked, whole, and only if something changed."""

import io

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib import font_manager

from segkd.analysis.figures import style
from segkd.analysis.figures.style import keep, styled
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


@styled
def bars(names):
    figure, axes = plt.subplots()
    axes.bar(names, [1] * len(names))
    return figure


def test_a_name_is_never_read_as_a_formula():
    figure = bars(["price $", "$\\frac{", "дорога", "a_b"])
    figure.savefig(io.BytesIO())
    assert not any(label.get_parse_math() for label in figure.axes[0].get_xticklabels())


def test_letters_are_found_in_other_fonts_and_missing_ones_named_once(capsys, recwarn, monkeypatch):
    """DejaVu Sans has no U+1D8D, which matplotlib's own STIXGeneral has; without other fonts nothing has Chinese."""
    own = [font for font in font_manager.fontManager.ttflist if font.name in (style.FONT, "STIXGeneral", "Last Resort High-Efficiency")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    style._fonts_with.cache_clear()
    (label,) = bars(["\u1d8d"]).axes[0].get_xticklabels()
    assert label.get_fontfamily() == [style.FONT, "STIXGeneral"] and not capsys.readouterr().out
    for names in (["road", "漢"], ["漢", "字"]):
        bars(names).savefig(io.BytesIO())
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == [f"no installed font has the letters {letter}" for letter in "漢字"]
    assert not recwarn.list
    style._fonts_with.cache_clear()

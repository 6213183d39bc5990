"""One look for all figures: fixed colours per method (safe for colour-blind readers), fonts, layout, units, and their data."""

from __future__ import annotations

import functools
import os
import re
import textwrap
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd

from segkd.analysis.figures.chart import bundle, tell
from segkd.registry import UserError
from segkd.train.state import write_whole

INTENSITY = "cividis"  # scalar maps; diverging maps are not needed anywhere
DPI = 110
MARKERS = "osD^vP*Xph<>"
FONT = "DejaVu Sans"
_told: set[int] = set()  # letters that no font has

# Okabe-Ito for the four papers and their main rivals, Paul Tol's "muted" set for the others.
METHOD_COLOURS = {
    "baseline": "#8c8c8c",
    "teacher": "#000000",
    "lad": "#D55E00",
    "fakd": "#009E73",
    "hwd": "#CC79A7",
    "rdd": "#E69F00",
    "cwd": "#0072B2",
    "kd": "#56B4E9",
    "cirkd": "#332288",
    "skd": "#882255",
    "ifvd": "#44AA99",
    "at": "#117733",
    "dsd": "#999933",
    "dist": "#AA4499",
    "mgd": "#8C564B",
    "maskd": "#6A7FC1",
    "fitnet": "#661100",
    "fakd_pd": "#CC6677",
}
ALIASES = {"student": "baseline", "no kd": "baseline", "w/o kd": "baseline", "none": "baseline", "pd": "kd"}
ALIASES |= {"fakd_cwd": "fakd", "fakd on cwd": "fakd", "fakd on pd": "fakd_pd"}
_SPARE = ("#4B6A88", "#A6761D", "#6B4C9A", "#2F6B5E", "#B5536C")


def method_colour(name: str) -> str:
    """The fixed colour of a method, a row or a composition such as ``kd+rdd`` (the colour of the papers' own part).

    A name that is not known gets one of five spare colours, the same one every time.
    """
    text = re.sub(r"\(.*?\)", "", str(name)).strip().lower().replace("-", "_")
    text = ALIASES.get(text, text)
    if text in METHOD_COLOURS:
        return METHOD_COLOURS[text]
    if text.startswith("teacher"):  # a student's row may name its teacher
        return METHOD_COLOURS["teacher"]
    parts = [ALIASES.get(p, p) for p in re.findall(r"[a-z0-9_]+", text)]
    for wanted in (("lad", "fakd", "fakd_pd", "hwd", "rdd"), tuple(METHOD_COLOURS)):
        found = [p for p in parts if p in wanted]
        if found:
            return METHOD_COLOURS[next((p for p in reversed(found) if p != "teacher"), found[-1])]
    return _SPARE[zlib.crc32(text.encode()) % len(_SPARE)]


def colours(names: list[str]) -> dict[str, str]:
    """Name to colour for the series of one figure; a colour that is taken already is replaced by a free one."""
    chosen: dict[str, str] = {}
    for name in names:
        free = [c for c in (method_colour(name), *_SPARE, *METHOD_COLOURS.values()) if c not in chosen.values()]
        chosen[name] = free[0] if free else method_colour(name)
    return chosen


def styled(draw: Callable) -> Callable:
    """Decorator of a function that returns a Figure: draws under the house style and closes the figure.

    The global matplotlib settings stay as they are, and no figure stays open in pyplot (a notebook shows it once).
    Given an empty frame, dictionary or list first, the figure says that nothing was measured yet.
    """

    @functools.wraps(draw)
    def wrapper(*args, **kwargs):
        import matplotlib.pyplot as plt

        with plt.rc_context(_settings()):
            nothing = args and isinstance(args[0], (pd.DataFrame, dict, list)) and not len(args[0])
            figure = note("no finished run yet") if nothing else draw(*args, **kwargs)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph .* missing from")
                figure.draw_without_rendering()  # the labels of ticks are made now, while names are no formulas
            _spell(figure)
        plt.close(figure)
        csv = args[0].attrs.get("csv", "") if args and isinstance(args[0], pd.DataFrame) else ""
        figure._repr_mimebundle_ = functools.partial(bundle, figure, csv)
        return figure

    return wrapper


def subplots(*shape: int, **options):
    """``matplotlib.pyplot.subplots``; matplotlib loads with the first figure."""
    import matplotlib.pyplot as plt

    return plt.subplots(*shape, **options)


def note(text: str):
    """A figure that holds a line or two of text, in the place of an empty one; on a page the text alone."""
    lines = textwrap.wrap(text, 90)
    figure, axes = subplots(figsize=(max(5, 0.11 * max(map(len, lines))), 0.5 + 0.3 * len(lines)))
    axes.set_axis_off()
    axes.text(0.5, 0.5, "\n".join(lines), ha="center", va="center", color="#666666")
    return tell(figure, "", text)


def _spell(figure) -> None:
    """Letters that DejaVu Sans lacks come from whatever installed font has them; those that none has are named once."""
    from matplotlib.text import Text

    texts = figure.findobj(Text)
    lacking = frozenset(ord(letter) for text in texts for letter in text.get_text() if letter.isprintable()) - _own_letters()
    for text in texts if lacking else ():
        text.set_fontfamily([FONT, *_fonts_with(lacking)])


@functools.cache
def _own_letters() -> frozenset[int]:
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(font_manager.findfont(FONT)).get_charmap())


@functools.cache
def _fonts_with(letters: frozenset[int]) -> list[str]:
    """Names of installed fonts that together have the code points, those without serifs first; says which none has."""
    from matplotlib import font_manager

    found, left = [], set(letters)
    for font in sorted(font_manager.fontManager.ttflist, key=lambda font: ("Sans" not in font.name, font.name)):
        if left and font.style == "normal" and not font.name.startswith("Last Resort"):  # that one has a box for every letter
            with suppress(OSError, RuntimeError):  # a damaged file
                if here := left & font_manager.get_font(font.fname).get_charmap().keys():
                    found.append(font.name)
                    left -= here
    if left := left - _told:
        _told.update(left)
        shown = "".join(map(chr, sorted(left)[:20]))
        print(f"no installed font has the letters {shown}: figures show boxes instead; install one that has them, such as a Noto Sans")
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # matplotlib's own word on each of them, at each drawing
    return found


def _settings() -> dict:
    import seaborn as sns

    own = {"figure.dpi": DPI, "savefig.dpi": DPI, "figure.constrained_layout.use": True, "axes.titlesize": 10}
    own |= {"axes.labelsize": 9.5, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9}
    own |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "image.cmap": INTENSITY}
    own |= {"font.family": FONT, "text.parse_math": False}  # the name of a class is no formula
    return {**sns.axes_style("whitegrid"), **sns.plotting_context("notebook"), **own}


def keep(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Write the data behind a figure as ``<name>.csv`` into the folder that SEGKD_FIGURES names; gives the frame back.

    Its ``attrs`` name the file, for the link below its chart. Nothing is written where that variable is unset or empty. The file appears whole or not at all, and only changes if
    a value did. UserError: a name that is no file name (a-z, 0-9, ``_`` and ``-``).
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise UserError(f"keep: '{name}' is no name for a file of figure data: use a-z, 0-9, '_' and '-'")
    if (folder := os.environ.get("SEGKD_FIGURES")) and len(frame.columns):
        path, text = Path(folder) / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_whole(path, lambda p: p.write_text(text, encoding="utf-8"))
        frame.attrs["csv"] = f"figures/{name}.csv"
    return frame

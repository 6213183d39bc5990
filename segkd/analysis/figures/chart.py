"""What a figure says beside its picture: its kind, its finding, what stands under the mouse, where its numbers lie."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

SAID = "segkd"  # the key under which a notebook's output carries it to the page
NEAR = 2.5  # points by which a mark's box is larger than what is drawn


def tell(figure, kind: str, message: str = "", marks: Iterable[tuple] | None = None, csv: str = ""):
    """The figure, with its kind, what came out in a sentence, and the file of its numbers beside the page.

    ``marks``: (axes, x0, x1, y0, y1, text), a box in data coordinates and what it says under the mouse. A figure with
    marks is a chart: pages show it as SVG. Without ``csv`` it is the file that the drawn frame names (``attrs``).
    """
    figure.said = {"kind": kind, "message": message, "marks": None if marks is None else list(marks), "csv": csv}
    return figure


def runs_of(frame, *names: str) -> str:
    """A line with the ids of the runs behind rows of a frame that has them (``attrs``), for a mark; empty if it has not."""
    ids = [run for name in names for run in frame.attrs.get("runs", {}).get(name, ())]
    return "\n" + ", ".join(ids) if ids else ""


def listed(words: Sequence[str], most: int = 4) -> str:
    """Words in a row, the first few of many."""
    return ", ".join([*words[:most], *([f"{len(words) - most} more"] if len(words) > most else [])]) or "none"


def bundle(figure, csv: str = "", include=None, exclude=None) -> tuple[dict, dict]:
    """What IPython asks of what it shows: a chart as SVG, and, as metadata of the output, what `tell` was given.

    There a mark is [left, top, width, height, text] in percent of the picture. A chart is transparent, so that a dark page
    can turn it dark; one with colours that stand for numbers (``scale``) keeps its white.
    """
    import matplotlib.pyplot as plt
    from matplotlib.collections import QuadMesh

    said = getattr(figure, "said", None)
    if said is None:
        return {}, {}
    told = {"alt": ". ".join(filter(None, (said["kind"], said["message"]))), "caption": said["message"], "csv": said["csv"] or csv}
    if said["marks"] is None:
        return {}, {SAID: told}
    dpi, buffer = figure.dpi, io.StringIO()
    figure.set_dpi(72)  # that of SVG, so that nothing moves between measuring and drawing
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    page = figure.get_tightbbox().padded(0.06)
    told |= {"width": round(96 * page.width), "marks": [_placed(page, *mark) for mark in said["marks"]], "scale": bool(figure.findobj(QuadMesh))}
    with plt.rc_context({"svg.hashsalt": "segkd"}):
        figure.savefig(buffer, format="svg", bbox_inches=page, transparent=not told["scale"], metadata={"Date": None, "Creator": None})
    figure.set_dpi(dpi)
    return {"image/svg+xml": buffer.getvalue()}, {SAID: told}


def _placed(page, axes, x0: float, x1: float, y0: float, y1: float, text: str) -> list:
    """A mark in percent of the picture, from its upper left corner."""
    corners = axes.transData.transform([(x0, y0), (x1, y1)])
    (left, low), (right, high) = corners.min(0) - NEAR, corners.max(0) + NEAR
    left, right, low, high = ((edge / 72 - start) * 100 / size for edge, start, size in (
        (left, page.x0, page.width), (right, page.x0, page.width), (low, page.y0, page.height), (high, page.y0, page.height)
    ))  # fmt: skip
    return [*(round(float(value), 2) for value in (left, 100 - high, right - left, high - low)), text]

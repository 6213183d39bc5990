"""What a report's first page says of its study: headline table, forest plot, what was run, where the numbers come from."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path

from segkd.registry import UserError
from segkd.runs import Run
from segkd.study.claims import findings, premises
from segkd.study.gaps import gaps_of
from segkd.study.numbers.study import Study
from segkd.study.report.freeze import provenance
from segkd.study.report.overview import Overview
from segkd.train.record import commit
from segkd.train.state import write_json, write_whole

CLAIMS = "90_claims"  # its cell tagged ``sceptic`` lists the sentences
PICTURES = {"forest": (CLAIMS, 64), "gains": ("00_tour", 64), "strip": ("00_tour", 256)}  # the page whose cell has this tag; colours


def first_page(
    study: Study, runs: Iterable[Run], folder: Path, found: Sequence[str], notes: Sequence[str], pictures: Mapping[str, Path],
    banners: Sequence[str] = (),
) -> Overview:
    """Everything of the first page but the cards.

    ``runs``: all behind the report; ``found``: the findings; ``notes``: what is missing of its pages;
    ``pictures``: as `keep_pictures` gives them.
    """
    protocol = study.facts()
    return Overview(
        title=f"Knowledge distillation for segmentation: {study.profile.name} on {study.dataset}",
        text=f"**What this profile can show.** {study.profile.shows}",
        facts={
            "profile": study.profile.name, "data": protocol["data"],
            "networks": f"student {protocol['student']}, teacher {protocol['teacher']}",
            "schedule": protocol["schedule"], "seeds": protocol["seeds"], "start": protocol["start"],
        },
        findings=found, premises=premises.table(study).to_html(), table=study.table("main").to_html(), **pictures, notes=notes,
        banners=banners, provenance=_provenance(study, runs, folder),
    )  # fmt: skip


def findings_of(study: Study) -> list[str]:
    """What was found, in Markdown: of all methods together, then of each paper, with a link to its page."""
    return [*findings.whole(study), *(f"{findings.of_paper(study, paper)} [{paper.upper()}]({paper}.html)" for paper in findings.QUESTIONS)]


def _provenance(study: Study, runs: Iterable[Run], folder: Path) -> dict[str, object]:
    found = provenance(study, runs, folder)
    hours = ", ".join(f"{value:.2f} {kind} hours" for kind, value in found.pop("hours", {}).items())
    wall = found.pop("wall_hours", None)
    fingerprint, pixels = found.pop("data_fingerprint", ""), found.pop("data_pixels", "")
    return {
        **found, "data fingerprint": fingerprint[:16], "SHA-256 of the training pixels": pixels[:16], "training steps took": hours,
        "wall time (by the times of the runs' files)": f"{wall:.2f} hours" if wall else "",
        "pages made": f"{date.today().isoformat()} by commit {commit()}",
    }


def keep_pictures(folder: Path, found: Sequence[str]) -> dict[str, Path]:
    """Keep of the executed notebooks what the first page and README.md show: pictures, and the claims in sentences.

    The pictures, now or from before, by name: ``forest``, ``gains``, ``strip``. Small enough to be committed. ``found``: the
    findings, kept beside the sentences in ``claims.json``.
    """
    from nbformat import read

    cells = {}
    for notebook in {CLAIMS, *(page for page, _ in PICTURES.values())}:
        executed = folder / "pages" / f"{notebook}.ipynb"
        cells[notebook] = read(executed, as_version=4).cells if executed.exists() else []
    for name, (page, colours) in PICTURES.items():
        if pictures := _outputs(cells[page], name, "image/png"):
            picture = few_colours(base64.b64decode(pictures[0]), 1200, colours)
            write_whole(folder / f"{name}.png", lambda path, picture=picture: path.write_bytes(picture))
    if listed := _outputs(cells[CLAIMS], "sceptic", "text/markdown"):
        sentences = re.findall(r"^\d+\. (.+)$", listed[-1], re.MULTILINE)
        write_json(folder / "claims.json", {"findings": list(found), "sentences": sentences})
    return {name: path for name in PICTURES if (path := folder / f"{name}.png").exists()}


def _outputs(cells: list, tag: str, kind: str) -> list[str]:
    """What cells with a tag show, of one MIME type; gaps aside."""
    found = [cell for cell in cells if tag in cell.metadata.get("tags", []) and not gaps_of(cell)]
    return [output["data"][kind] for cell in found for output in cell.outputs if kind in output.get("data", {})]


def few_colours(png: bytes, width: int, colours: int = 64) -> bytes:
    """A plot as PNG with a palette of few colours, no wider than ``width`` pixels. UserError: not a picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(png)).convert("RGBA")
    except UnidentifiedImageError as error:
        raise UserError("a plot of the first page is not a picture: make the pages again") from error
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if flat.width > width:
        flat = flat.resize((width, round(flat.height * width / flat.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    flat.quantize(colours).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()

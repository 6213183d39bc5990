"""What a page keeps of the one before it: what cells showed of networks that are not here any more."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from segkd.study.gaps import gaps_of

CELL = re.compile(r'<section class="code-cell" data-cell="([^"]+)" data-code="(\w*)">\s*<details class="code">.*?</details>(.*?)</section>', re.DOTALL)
NOTE = re.compile(r'<p class="kept">.*?</p>', re.DOTALL)
FRAMES = re.compile(r'<script type="application/json" id="look-data">(.*?)</script>', re.DOTALL)
SAID = "Kept from an earlier rendering: the trained networks that it needs were not at hand when this page was made."


@dataclass(frozen=True)
class Kept:
    """Of a page: ``cells`` (id to the hash of its code and its output as HTML), ``numbers`` (headline), ``frames`` (slider)."""

    cells: dict[str, tuple[str, str]] = field(default_factory=dict)
    numbers: list[tuple[str, str]] = field(default_factory=list)
    frames: str = ""


def kept_of(html: Path, of: str) -> Kept:
    """What the page at ``html`` shows, but for its own empty places; nothing if there is no page of this study (``of``)."""
    text = html.read_text(encoding="utf-8") if html.exists() else ""
    said = said_in(text)
    if said["of"] != of:
        return Kept()
    cells = {name: (code, shown) for name, code, shown in CELL.findall(text) if 'class="gap"' not in shown}
    frames = FRAMES.search(text)
    return Kept(cells, list(map(tuple, said["numbers"])), frames[1] if frames else "")


def said_in(text: str) -> dict:
    """What a page has in its head: ``numbers`` (headline: label, value) and ``of`` (its study)."""
    from bs4 import BeautifulSoup

    tag = BeautifulSoup(text.split("</head>", 1)[0], "html.parser").find("meta", attrs={"name": "segkd"})
    return {"numbers": [], "of": ""} | (json.loads(tag["content"]) if tag else {})


def code_hash(source: str) -> str:
    """Short; tells whether a kept output was made by the code that stands above it."""
    return hashlib.sha256(source.strip().encode()).hexdigest()[:8]


def fill_gaps(node, html: Path, of: str) -> Kept:
    """Let the empty places of an executed notebook show what the page at ``html`` shows there, with a word on it.

    Returns what is used of that page beside its cells: headline numbers and frames, empty where they are the notebook's own.
    """
    gaps = [cell for cell in node.cells if gaps_of(cell)]
    kept = kept_of(html, of) if gaps else Kept()
    filled = [cell for cell in gaps if cell["id"] in kept.cells]
    for cell in filled:
        code, shown = kept.cells[cell["id"]]
        older = "" if code == code_hash(cell.source) else " Its code has changed since."
        note = f'<p class="kept">{SAID}{older}</p>' if shown.strip() else ""  # a cell that only sets names shows nothing
        cell.metadata.update(kept=note + NOTE.sub("", shown), code=code)
    headline = any("headline" in cell.metadata.get("tags", []) for cell in filled)
    frames = any('id="look"' in cell.metadata["kept"] for cell in filled)
    return Kept(numbers=kept.numbers if headline else [], frames=kept.frames if frames else "")

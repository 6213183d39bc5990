"""The first page of a report: headline table, forest plot, search, a card for each page, and where the numbers come from."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segkd.study.report.kept import said_in
from segkd.study.report.markup import clean_html, markdown_html
from segkd.study.report.page_size import PICTURE, webp
from segkd.study.report.pages import TEMPLATES, Link, all_studies, menus, script_data, shell, write

SVG = re.compile(r"data:image/svg\+xml;base64,[A-Za-z0-9+/=]+")
CHART = re.compile(r'<figure [^>]*class="chart" id="(gains|forest)".*?</figure>', re.DOTALL)  # of a page, taken over as it stands
HEADINGS = ("h1", "h2", "h3")
DOORS = {  # what one may have come for: words, and the pages that answer, by file
    "Learn": ("how each method works, from the problem to the lines of code", ("lad", "fakd", "hwd", "rdd")),
    "Check": ("what was claimed, what was measured, how sure it is", ("90_claims", "01_how_to_read", "look")),
    "Ship": ("a student for your own images (make distill DATA=folder), and what accuracy costs", ("95_your_own_data", "cost")),
}
NO_TEXT = ("details", "style", "script", "nav", "math")  # folded code and what is no text


@dataclass(frozen=True)
class Page:
    """A page of the report: its HTML, its short name for the bar of links (default: the title up to its colon), its menu there."""

    html: Path
    label: str | None = None
    group: str = ""


@dataclass(frozen=True)
class Overview:
    """What stands on the first page beside the cards; all but the title may be empty.

    ``text``: Markdown, what this profile can show. ``findings``: Markdown, a finding each. ``facts``, ``provenance``: by name. ``premises``, ``table``: HTML of the table of
    what must hold and of the headline table.
    ``strip`` (frames), ``gains`` and ``forest`` (plots): PNG files. ``notes``: what is missing, a sentence each. ``banners``: warnings.
    """

    title: str
    text: str = ""
    facts: Mapping[str, object] | None = None
    table: str = ""
    strip: Path | None = None
    gains: Path | None = None
    forest: Path | None = None
    notes: Sequence[str] = ()
    banners: Sequence[str] = ()
    provenance: Mapping[str, object] | None = None
    premises: str = ""
    findings: Sequence[str] = ()


def build_index(report_dir: Path, pages: Sequence[Page], overview: Overview) -> Path:
    """Write ``report_dir/index.html``."""
    from jinja2 import Environment, FileSystemLoader

    report_dir = Path(report_dir)
    cards = [_card(page, report_dir) for page in pages]
    sections = [section for card in cards for section in card.pop("sections")]
    nav = [*all_studies(report_dir), Link("Overview", "index.html"), *(Link(card["label"], card["href"], card["group"]) for card in cards)]
    named = {Path(link.href).stem: link for link in nav}
    doors = [(name, words, [named[page] for page in pages if page in named]) for name, (words, pages) in DOORS.items()]
    texts = (Path(page.html).read_text(encoding="utf-8") for page in pages)
    charts = {found[1]: found[0].replace(f' id="{found[1]}"', "", 1) for text in texts for found in CHART.finditer(text)}
    environment = Environment(loader=FileSystemLoader(TEMPLATES / "page"), autoescape=False)  # the templates escape
    body = environment.get_template("overview.html.j2").render(
        title=overview.title, facts=_facts(overview.facts), text=markdown_html(overview.text), banners=overview.banners,
        doors=[door for door in doors if door[2]], premises=clean_html(overview.premises), table=clean_html(overview.table),
        notes=[markdown_html(note) for note in overview.notes],
        findings=[markdown_html(text) for text in overview.findings],
        **{name: _data_address(getattr(overview, name)) for name in ("strip", "gains", "forest")}, provenance=_facts(overview.provenance), cards=cards,
        charts=charts, nav=menus(nav, "index.html"), outside=shell("theme", "search"), sections=script_data(sections),
    )
    return write(report_dir / "index.html", body)


def _facts(values: Mapping[str, object] | None) -> list[tuple[str, str]]:
    """Facts as text, lists as their items; empty ones are left out."""
    plain = lambda value: ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)  # noqa: E731
    return [(name.replace("_", " "), plain(value)) for name, value in (values or {}).items() if plain(value)]


def _data_address(picture: Path | None) -> str:
    if picture is None or not picture.exists():
        return ""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()


def _card(page: Page, report_dir: Path) -> dict:
    """All that the first page says of a page, read from the page itself: it may be older than its notebook."""
    from bs4 import BeautifulSoup

    text = Path(page.html).read_text(encoding="utf-8")
    soup = BeautifulSoup(SVG.sub("data:,", PICTURE.sub("data:,", text)), "html.parser")
    title, href = soup.title.get_text(), Path(os.path.relpath(page.html, report_dir)).as_posix()
    first, picture, drawn = soup.select_one("section.text p"), PICTURE.search(text), SVG.search(text)
    thumbnail = webp(base64.b64decode(picture[1]), 80, 640) if picture else drawn and drawn[0]
    return {
        "title": title, "label": page.label or title.split(":")[0], "group": page.group, "summary": first_sentence(first), "href": href,
        "numbers": said_in(text)["numbers"], "thumbnail": thumbnail, "sections": sections_of(soup, title, href),
    }  # fmt: skip


def sections_of(soup, title: str, href: str) -> list[dict[str, str]]:
    """What can be searched for: a page's text by its headings, folded code left out. Keys: page, href, heading, text."""
    from bs4 import NavigableString

    for element in soup.select(", ".join([*NO_TEXT, ".anchor-link", "meta"])):
        element.decompose()
    found = [{"page": title, "href": href, "heading": title, "text": []}]
    for element in (soup.main or soup).descendants:
        if getattr(element, "name", None) in HEADINGS:
            place = f"{href}#{element['id']}" if element.get("id") else href
            found.append({"page": title, "href": place, "heading": element.get_text().strip(), "text": []})
        elif isinstance(element, NavigableString) and element.find_parent(HEADINGS) is None:
            found[-1]["text"].append(str(element))
    joined = [section | {"text": " ".join(" ".join(section["text"]).split())} for section in found]
    return [section for section in joined if section["text"] or section["heading"] != title]


def first_sentence(paragraph) -> str:
    """The first sentence of a paragraph element, as plain text; a lead-in such as **Question.** is left out."""
    if paragraph is None:
        return ""
    lead = paragraph.find("strong")
    text = " ".join(paragraph.get_text().split())
    begins = " ".join(lead.get_text().split()) if lead else ""
    if begins.endswith((".", ":")) and text.startswith(begins):
        text = text.removeprefix(begins).strip()
    return re.split(r"(?<=[.!?])(?<!al\.)(?<!vs\.)(?<!e\.g\.)(?<!i\.e\.)\s+(?=[A-Z])", text)[0]

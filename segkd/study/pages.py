"""Executed notebooks to HTML: one file a page, an overview with a card for each; all of it opens without a network."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segkd.study.markup import clean_html, markdown_html

TEMPLATES = Path(__file__).parent / "templates"
PICTURES = ["image/svg+xml", "image/png", "image/jpeg"]


@dataclass(frozen=True)
class Page:
    """A page of the report, for the overview: its HTML, the executed notebook behind it, its headline numbers."""

    html: Path
    notebook: Path
    numbers: Sequence[tuple[str, str]] = ()
    title: str | None = None
    summary: str | None = None
    label: str | None = None  # short name for the bar of links; default: the title up to its colon


def render(executed: Path, html: Path, nav: Iterable[tuple[str, str]] = ()) -> Path:
    """Write the executed notebook as one HTML file; ``nav``: (label, href) of the report's pages, this one is marked.

    Nothing is loaded from the net, nothing active gets through, formulas become MathML, code is folded but there.
    """
    from nbconvert import HTMLExporter
    from nbformat import read
    from traitlets.config import Config

    node = read(executed, as_version=4)
    contents = _prepare(node)
    node.metadata["title"] = _title(node, Path(executed).stem)
    priority = [*PICTURES, "text/html", "text/markdown", "text/latex", "text/plain"]
    config = Config(NbConvertBase={"display_data_priority": priority}, CoalesceStreamsPreprocessor={"enabled": True})
    exporter = HTMLExporter(
        config=config, template_name="page", extra_template_basedirs=[str(TEMPLATES)], sanitize_html=True,
        mathjax_url="", require_js_url="", jquery_url="",
    )
    exporter.register_filter("clean", clean_html)
    exporter.register_filter("markdown", markdown_html)
    resources = {"nav": _links(nav, Path(html).name), "contents": contents}
    body, _ = exporter.from_notebook_node(node, resources=resources)
    return _write(html, body)


def build_index(report_dir: Path, pages: Sequence[Page], headline: Mapping[str, object]) -> Path:
    """Write ``report_dir/index.html``: what was run, what it can show, one card a page.

    ``headline``: ``title``; ``about`` (Markdown: what this profile can and cannot show); every other entry is a fact
    shown as it is, in the order given (profile, data set, seeds, commit, date, ...).
    """
    from jinja2 import Environment, FileSystemLoader

    report_dir = Path(report_dir)
    title = str(headline.get("title") or report_dir.name)
    facts = [(name.replace("_", " "), _plain(headline[name])) for name in headline if name not in ("title", "about")]
    cards = [_card(page, report_dir) for page in pages]
    nav = [("Overview", "index.html"), *((card["label"], card["href"]) for card in cards)]
    environment = Environment(loader=FileSystemLoader(TEMPLATES / "page"), autoescape=False)  # the templates escape
    body = environment.get_template("overview.html.j2").render(
        headline={"title": title, "facts": facts}, about=markdown_html(str(headline.get("about") or "")),
        cards=cards, nav=_links(nav, "index.html"),
    )
    return _write(report_dir / "index.html", body)


def _plain(value: object) -> str:
    """A fact as text: lists as their items."""
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _write(html: Path, body: str) -> Path:
    """The file appears whole or not at all."""
    html = Path(html)
    html.parent.mkdir(parents=True, exist_ok=True)
    partial = html.with_name(f".{html.name}.{os.getpid()}.partial")
    partial.write_text(body, encoding="utf-8")
    os.replace(partial, html)
    return html


def _links(nav: Iterable[tuple[str, str]], current: str) -> list[dict]:
    return [{"label": label, "href": href, "current": Path(href).name == current} for label, href in nav]


def _prepare(node) -> list[tuple[str, str]]:
    """Drop what no reader needs, give code its label, pictures their text, text its HTML; returns the h2 headings."""
    from bs4 import BeautifulSoup

    heading, contents = "", []
    node.cells = [cell for cell in node.cells if cell.source.strip()]
    for cell in node.cells:
        if cell.cell_type == "markdown":
            cell.metadata["html"] = markdown_html(cell.source, cell.get("attachments"))
            for found in BeautifulSoup(cell.metadata["html"], "html.parser").find_all(["h1", "h2", "h3"]):
                heading = found.get_text().removesuffix("#").strip()
                if found.name == "h2" and found.get("id"):
                    contents.append((found["id"], heading))
        if cell.cell_type == "code":
            cell.metadata.update(first_line=_code_label(cell), alt=f"Figure: {heading}")
    return contents if len(contents) > 2 else []


def _code_label(cell) -> str:
    """What a folded code cell is called: its role, or its first line that does something."""
    roles = {"parameters": "parameters (defaults)", "injected-parameters": "parameters (this run)"}
    role = next((roles[tag] for tag in cell.metadata.get("tags", []) if tag in roles), None)
    lines = [line.strip() for line in cell.source.splitlines()]
    return role or next((line for line in lines if line and not line.startswith(("#", "%"))), "code")


def _card(page: Page, report_dir: Path) -> dict:
    """What the overview says of a page; title and summary come from the notebook unless they are given."""
    from nbformat import read

    node = read(page.notebook, as_version=4)
    text = " ".join(markdown_html(cell.source) for cell in node.cells if cell.cell_type == "markdown")
    title = page.title or _title(node, Path(page.notebook).stem)
    summary = page.summary or node.metadata.get("summary") or _first_sentence(text)
    href = Path(os.path.relpath(page.html, report_dir)).as_posix()
    return {
        "title": title, "label": page.label or title.split(":")[0], "summary": summary, "href": href,
        "numbers": page.numbers, "thumbnail": _thumbnail(node),
    }


def _title(node, fallback: str) -> str:
    """The title given at execution, else the first top heading, else the file's name."""
    text = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    heading = re.search(r"^#\s+(.+?)\s*#*$", text, re.MULTILINE)
    return node.metadata.get("title") or (heading[1] if heading else fallback)


def _first_sentence(html: str) -> str:
    """The first sentence of the first paragraph, as plain text; a lead-in such as **Question.** is left out."""
    from bs4 import BeautifulSoup

    paragraph = BeautifulSoup(html, "html.parser").find("p")
    lead = paragraph.find("strong") if paragraph else None
    if lead and lead.get_text().rstrip().endswith((".", ":")) and paragraph.get_text().startswith(lead.get_text()):
        lead.decompose()
    text = " ".join(paragraph.get_text().split()) if paragraph else ""
    return re.split(r"(?<=[.!?])(?<!al\.)(?<!vs\.)(?<!e\.g\.)(?<!i\.e\.)\s+(?=[A-Z])", text)[0]


def _thumbnail(node, width: int = 640) -> str | None:
    """The notebook's first PNG, scaled down, as a data address; None if it has none."""
    from PIL import Image

    outputs = (output for cell in node.cells for output in cell.get("outputs", []))
    png = next((o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})), None)
    if png is None:
        return None
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    picture.thumbnail((width, width))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()

"""Executed notebooks to HTML: one file a page, at most 3 MB; all of it opens without a network."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape, unescape
from itertools import groupby
from pathlib import Path

from segkd.analysis.figures.look import LOOK
from segkd.study.gaps import GAP, gaps_of
from segkd.study.report.kept import code_hash, fill_gaps
from segkd.study.report.markup import clean_html, markdown_html, with_minus
from segkd.study.report.page_size import fit
from segkd.train.state import write_whole

TEMPLATES = Path(__file__).parent / "templates"
NOTEBOOK_LINK = re.compile(r"\]\((?!\w+:)(?:[\w.-]+/)*([\w-]+)\.ipynb(?=[)#])")  # pages of a report lie in one folder
PICTURES = ["image/svg+xml", "image/png", "image/jpeg"]


@dataclass(frozen=True)
class Link:
    """A page in the bar of links; those of one ``group`` stand in one menu."""

    label: str
    href: str
    group: str = ""


def render(executed: Path, html: Path, nav: Sequence[Link] = (), banners: Sequence[str] = (), of: str = "") -> Path:
    """Write the executed notebook as one HTML file; ``nav``: the report's pages in their order, this one is marked.

    Nothing is loaded from the net, nothing active of the notebook gets through (the one script is the house's own, named by
    its hash in the page's security policy), formulas become MathML, code is folded but there. A cell that lacks what it
    needs keeps what the page that is there, if it is ``of`` the same study, shows in its place. Its head keeps the headline
    numbers (`kept.said_in`). ``banners``: warnings for its top.
    """
    from nbconvert import HTMLExporter
    from nbformat import read
    from traitlets.config import Config

    node = read(executed, as_version=4)
    kept = fill_gaps(node, Path(html), of)
    numbers = numbers_of(node) or kept.numbers
    contents, frames = _prepare(node), _frames(node) or kept.frames
    node.metadata["title"] = _title(node, Path(executed).stem)
    priority = [*PICTURES, "text/html", "text/markdown", "text/latex", "text/plain"]
    config = Config(NbConvertBase={"display_data_priority": priority}, CoalesceStreamsPreprocessor={"enabled": True})
    exporter = HTMLExporter(
        config=config, template_name="page", extra_template_basedirs=[str(TEMPLATES)], sanitize_html=True,
        mathjax_url="", require_js_url="", jquery_url="",
    )
    exporter.register_filter("clean", clean_html)
    exporter.register_filter("markdown", markdown_html)
    exporter.register_filter("minus", with_minus)
    resources = {
        "nav": menus(nav, Path(html).name), "beside": beside(nav, Path(html).name), "contents": contents, "banners": banners,
        "shell": shell("theme", *(["look"] if frames else [])), "look": frames, "about": json.dumps({"numbers": numbers, "of": of}),
    }
    body, _ = exporter.from_notebook_node(node, resources=resources)
    return write(html, fit(with_math_font(body), Path(html).name))


def with_math_font(body: str) -> str:
    """A page with formulas brings their letters: STIX Two Math (SIL Open Font License 1.1), cut to what the notebooks write."""
    font = base64.b64encode((TEMPLATES / "page" / "math.woff2").read_bytes()).decode()
    face = f'@font-face {{ font-family: "segkd math"; src: url(data:font/woff2;base64,{font}); }}'
    return body.replace("<style>", f"<style>\n{face}", 1) if "<math" in body else body


def numbers_of(node) -> list[tuple[str, str]]:
    """The headline numbers of an executed notebook: the dict that its cell tagged ``headline`` shows."""
    for cell in node.cells:
        if "headline" in cell.metadata.get("tags", []) and cell.outputs and not gaps_of(cell):
            return [(name, with_minus(value)) for name, value in ast.literal_eval(cell.outputs[-1]["data"]["text/plain"]).items()]
    return []


def shell(*scripts: str) -> dict[str, object]:
    """What every page's head needs: the house's scripts by name, and the policy that lets these and no others run."""
    texts = [(TEMPLATES / "page" / f"{name}.js").read_text(encoding="utf-8") for name in scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in texts)
    policy = f"default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'; script-src {hashes}"
    return {"scripts": texts, "policy": policy}


def all_studies(folder: Path) -> list[Link]:
    """The way from a report up to the page of all studies, where that is there."""
    return [Link("All studies", "../index.html")] if (folder.parent / "index.html").exists() else []


def menus(nav: Sequence[Link], current: str) -> list[dict]:
    """The bar of links by their groups, the current page marked: ``group`` (empty for a page by itself) and ``links``."""
    marked = [{**vars(link), "current": link.href == current} for link in nav]
    return [{"group": group, "links": list(found)} for group, found in groupby(marked, lambda link: link["group"])]


def beside(nav: Sequence[Link], current: str) -> list[Link | None]:
    """The pages before and after this one."""
    around = [None, *nav, None]
    at = next((i for i, link in enumerate(around) if link and link.href == current), 0)
    return [around[at - 1], around[at + 1]] if at else [None, None]


def write(html: Path, body: str) -> Path:
    """The file appears whole or not at all; one that is the same already is left as it is."""
    html = Path(html)
    if html.exists() and html.read_text(encoding="utf-8") == body:
        return html
    write_whole(html, lambda path: path.write_text(body, encoding="utf-8"))
    return html


def _prepare(node) -> list[tuple[str, str]]:
    """Drop what no reader needs, give code its label, pictures their text, text its HTML; returns the h2 headings."""
    from bs4 import BeautifulSoup

    heading, contents, numbers = "", [], numbers_of(node)
    node.cells = [cell for cell in node.cells if cell.source.strip()]
    for cell in node.cells:
        if cell.cell_type == "markdown":
            cell.metadata["html"] = markdown_html(NOTEBOOK_LINK.sub(r"](\1.html", cell.source), cell.get("attachments"))
            for found in BeautifulSoup(cell.metadata["html"], "html.parser").find_all(["h1", "h2", "h3"]):
                heading = found.get_text().removesuffix("#").strip()
                if found.name == "h2" and found.get("id"):
                    contents.append((found["id"], heading))
        if cell.cell_type == "code":
            if numbers and "headline" in cell.metadata.get("tags", []):
                said = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in numbers)
                cell.outputs[-1]["data"] = {"text/html": f'<dl class="facts">{said}</dl>'}
            drawn = re.search("<desc>(.*?)</desc>", "".join(output.get("data", {}).get("image/svg+xml", "") for output in cell.outputs))
            cell.metadata.update(first_line=_code_label(cell), alt=unescape(drawn[1]) if drawn else f"Figure: {heading}", code=cell.metadata.get("code", code_hash(cell.source)))
            for output in cell.outputs:
                if GAP in output.get("data", {}):
                    reason = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(output["data"][GAP]["reason"]))
                    output["data"] = {"text/html": f'<p class="gap"><b>Not shown here:</b> {reason}</p>'}
    return contents if len(contents) > 2 else []


def _frames(node) -> str:
    """The frames of a page's slider (`segkd.analysis.figures.look`) as script data, their output a place for it; empty without one."""
    for cell in node.cells:
        for output in cell.get("outputs", []):
            if LOOK in output.get("data", {}):
                found = script_data(output["data"][LOOK])
                output["data"] = {"text/html": '<div id="look"></div>'}
                return found
    return ""


def script_data(values: object) -> str:
    """JSON that can stand inside a script element."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c").replace("\u2028", " ")


def _code_label(cell) -> str:
    """What a folded code cell is called: its role, or its first line that does something."""
    roles = {"parameters": "parameters (defaults)", "injected-parameters": "parameters (this run)"}
    role = next((roles[tag] for tag in cell.metadata.get("tags", []) if tag in roles), None)
    lines = [line.strip() for line in cell.source.splitlines()]
    return role or next((line for line in lines if line and not line.startswith(("#", "%"))), "code")


def _title(node, fallback: str) -> str:
    """The title given at execution, else the first top heading, else the file's name."""
    text = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    heading = re.search(r"^#\s+(.+?)\s*#*$", text, re.MULTILINE)
    return node.metadata.get("title") or (heading[1] if heading else fallback)

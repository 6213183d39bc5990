"""The first page of a report and the size of pages: cards, search, banners, gaps, forest plot; readable in light and dark."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from segkd.registry import UserError
from segkd.study.gaps import GAP
from segkd.study.report.first_page import few_colours, keep_pictures
from segkd.study.report.kept import said_in
from segkd.study.report.overview import Overview, Page, build_index, first_sentence
from segkd.study.report.page_size import LIMIT, fit
from segkd.study.report.pages import TEMPLATES, Link, render

TEXT = "# RDD: hard & easy\n\n**Question.** Which pixels (Liu et al. 2023)? More words.\n\n## Two maps\n\nBoth <b>maps</b> & their XOR."


def png(height: int = 40, width: int = 60, seed: int = 0) -> bytes:
    """Noise: the largest that a picture of this size can be."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def cell(source: str, *data: dict, tags: tuple[str, ...] = ()):
    """A code cell that has been run."""
    outputs = [new_output("display_data", data=entry) for entry in data]
    return new_code_cell(source, outputs=outputs, metadata={"tags": list(tags)})


def picture(data: bytes) -> dict:
    return {"image/png": base64.b64encode(data).decode()}


def notebook(path, *cells):
    nbformat.write(new_notebook(cells=[new_markdown_cell(TEXT), *cells]), path)
    return path


@pytest.fixture
def page(tmp_path):
    """A rendered page with a picture, headline numbers, a gap and a warning."""
    executed = notebook(
        tmp_path / "rdd.ipynb",
        cell("picture()", picture(png())),
        cell("gap()", {GAP: {"reason": "no run; `make reproduce` <makes> it"}, "text/plain": "x"}),
        cell("numbers", {"text/plain": "{'gain & more': '+1.2 ± 0.3'}"}, tags=("headline",)),
    )
    return render(executed, tmp_path / "rdd.html", [Link("Overview", "index.html"), Link("RDD", "rdd.html")], ["results.csv is <altered>"], "a study")


def test_warning_stands_once_above_everything(page):
    text = page.read_text()
    (banner,) = BeautifulSoup(text, "html.parser").select("[role=alert]")
    assert "results.csv is <altered>" in banner.get_text() and text.index("alert") < text.index("<h1")


def test_gap_is_a_sentence_with_the_command(page):
    (gap,) = BeautifulSoup(page.read_text(), "html.parser").select(".gap")
    assert gap.get_text() == "Not shown here: no run; make reproduce <makes> it" and gap.code.get_text() == "make reproduce"


def test_page_knows_its_headline_numbers_and_study(page):
    assert said_in(page.read_text()) == {"numbers": [["gain & more", "+1.2 ± 0.3"]], "of": "a study"}
    assert said_in("<html><head></head></html>") == {"numbers": [], "of": ""}


@pytest.fixture
def index(page, tmp_path):
    forest = tmp_path / "forest.png"
    forest.write_bytes(few_colours(png(), 1200))
    overview = Overview(
        "Quick & more", "What a **profile** shows.", {"data_set": "scenes", "seeds": [0, 1]},
        '<table><tbody><tr><td title="run-a, run-b">35.1</td></tr></tbody></table><script>alert(1)</script>', forest=forest,
        notes=["**Tour**: left out: `make reproduce`"], banners=["results.csv is <altered>"], provenance={"commits": ["abc"], "machines": [], "device": ""},
    )
    return BeautifulSoup(build_index(tmp_path, [Page(page, "RDD"), Page(page)], overview).read_text(), "html.parser")


def test_first_page_has_table_forest_cards_notes_and_provenance(index):
    assert index.select_one("td[title='run-a, run-b']").get_text() == "35.1"
    assert index.select_one("figure img")["src"].startswith("data:image/png") and "95 %" in index.select_one("figure img")["alt"]
    cards = index.select("a.card")
    assert [card["href"] for card in cards] == ["rdd.html"] * 2 and cards[0].strong.get_text() == "RDD: hard & easy"
    assert "+1.2 ± 0.3 gain & more" in cards[0].get_text() and cards[0].img["src"].startswith("data:image/webp")
    assert cards[0].select_one(".summary").get_text() == "Which pixels (Liu et al. 2023)?"
    assert "left out: make reproduce" in index.select_one(".notes").get_text()
    facts = dict(zip((d.get_text() for d in index.select("dt")), (d.get_text() for d in index.select("dd"))))
    assert facts == {"data set": "scenes", "seeds": "0, 1", "commits": "abc"}
    assert "<altered>" in index.select_one("[role=alert]").get_text()


def test_search_knows_every_section_of_every_page(index):
    sections = json.loads(index.find(id="sections").string)
    assert {"page": "RDD: hard & easy", "href": "rdd.html#Two-maps", "heading": "Two maps"}.items() <= sections[-1].items()
    assert sections[-1]["text"].startswith("Both maps & their XOR.") and "picture()" not in json.dumps(sections)
    assert any("Which pixels" in section["text"] for section in sections)


def test_only_the_scripts_of_the_house_can_run(index):
    (policy,) = index.select("meta[http-equiv=Content-Security-Policy]")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy["content"]))
    running = [script.string for script in index.find_all("script") if script.get("type") != "application/json"]
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in running} == allowed
    assert len(running) == 2 and "unsafe" not in policy["content"].split("script-src")[1]


def test_what_a_page_says_cannot_leave_its_place(tmp_path):
    executed = tmp_path / "n.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A `</script><b>` B\n\ntext `</script>` \u2028 end")]), executed)
    text = build_index(tmp_path, [Page(render(executed, tmp_path / "n.html"))], Overview("T")).read_text()
    soup = BeautifulSoup(text, "html.parser")
    assert len(soup.find_all("script")) == 3 and "</script>" in json.loads(soup.find(id="sections").string)[0]["text"]


def test_headings_do_not_skip_a_level_and_parts_have_names(index):
    levels = [int(heading.name[1]) for heading in index.find_all(re.compile("^h[1-6]$"))]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in zip(levels, levels[1:]))
    names = {found["id"] for found in index.select("[id]")}
    assert {found["aria-labelledby"] for found in index.select("[aria-labelledby]")} <= names
    assert index.html["lang"] == "en" and index.select_one("a.skip")["href"] == "#content" and index.main["id"] == "content"
    assert all(image.has_attr("alt") for image in index.find_all("img")) and index.find("label", attrs={"for": "query"})


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return float(np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def test_text_has_contrast_in_light_and_dark():
    style = (TEMPLATES / "page" / "style.css").read_text()
    found = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", style)
    schemes = [{name: colours[at] for name, *colours in found} for at in (0, 1)]
    pairs = [(ink, ground) for ink in ("ink", "soft", "link", "word", "text", "number", "note") for ground in ("page", "wash")]
    for scheme in schemes:
        for ink, ground in [*pairs, ("alarm", "alarm-wash"), ("soft", "found"), ("ink", "found")]:
            dark, light = sorted((luminance(scheme[ink]), luminance(scheme[ground])))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground, scheme[ink], scheme[ground])


def test_large_page_is_brought_under_the_limit(tmp_path):
    pictures = [cell("x", picture(png(750, 1000, seed))) for seed in range(2)]
    executed = notebook(tmp_path / "big.ipynb", *pictures)
    assert executed.stat().st_size > 1.5 * LIMIT
    html = render(executed, tmp_path / "big.html")
    text = html.read_text()
    assert html.stat().st_size <= LIMIT and text.count("data:image/webp") == 2
    sizes = [Image.open(io.BytesIO(base64.b64decode(found))).size for found in re.findall(r"webp;base64,([^\"]+)", text)]
    assert all(abs(width / height - 4 / 3) < 0.01 and width >= 640 for width, height in sizes)


def test_small_page_keeps_its_pictures_and_a_hopeless_one_is_refused():
    body = "data:image/png;base64," + base64.b64encode(png()).decode()
    assert fit(body, "a.html") == body
    with pytest.raises(UserError, match="page a.html has .* MB .* split it"):
        fit("x" * (LIMIT + 1), "a.html")


def test_forest_plot_and_sentences_are_kept_from_the_claims_page(tmp_path):
    assert keep_pictures(tmp_path, ["x above"]) == {}
    (tmp_path / "pages").mkdir()
    forest, said = cell("f", picture(png(300, 2400)), tags=("forest",)), cell("s", {"text/markdown": "1. One.\n2. Two."}, tags=("sceptic",))
    notebook(tmp_path / "pages" / "90_claims.ipynb", cell("other", picture(png())), forest, said)
    notebook(tmp_path / "pages" / "00_tour.ipynb", cell("g", picture(png()), tags=("gains",)))
    kept = keep_pictures(tmp_path, ["x above"])
    assert set(kept) == {"forest", "gains"} and Image.open(kept["forest"]).size == (1200, 150)
    assert json.loads((tmp_path / "claims.json").read_text()) == {"findings": ["x above"], "sentences": ["One.", "Two."]}
    notebook(tmp_path / "pages" / "90_claims.ipynb", cell("f", {GAP: {"reason": "no"}, "text/plain": "x"}, tags=("forest", "sceptic")))
    assert keep_pictures(tmp_path, ["x above"]) == kept
    with pytest.raises(UserError, match="not a picture"):
        few_colours(b"no", 10)


@pytest.mark.parametrize("html, said", [
    ("<p><strong>Question.</strong> Does it help? More.</p>", "Does it help?"),
    ("<p>As in Liu et al. This is one, i.e. Not two. Three.</p>", "As in Liu et al. This is one, i.e. Not two."),
    ("<p>No end</p>", "No end"),
])
def test_first_sentence(html, said):
    assert first_sentence(BeautifulSoup(html, "html.parser").p) == said
    assert first_sentence(None) == ""


def test_charts_of_the_pages_stand_on_the_first_page_with_what_they_say(tmp_path):
    said = {"alt": "Dots.", "caption": "CWD gains.", "csv": "figures/gains.csv", "width": 700, "marks": [[10, 20, 3, 4, "run-1"]]}
    output = nbformat.v4.new_output("display_data", {"image/svg+xml": "<svg/>"}, metadata={"segkd": said})
    cells = [new_markdown_cell("# Tour"), nbformat.v4.new_code_cell("draw()", outputs=[output], metadata={"tags": ["gains"]})]
    nbformat.write(new_notebook(cells=cells), tmp_path / "n.ipynb")
    page = Page(render(tmp_path / "n.ipynb", tmp_path / "n.html"))
    soup = BeautifulSoup(build_index(tmp_path, [page], Overview("T", table="<table></table>")).read_text(), "html.parser")
    chart = soup.select_one("section[aria-labelledby=headline] figure.chart")
    assert chart.i["title"] == "run-1" and chart.a["href"] == "./figures/gains.csv" and "CWD gains." in chart.get_text()
    assert soup.select_one("a.card img")["src"].startswith("data:image/svg+xml"), "a page of drawings alone has one as its thumbnail"

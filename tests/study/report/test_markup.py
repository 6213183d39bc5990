"""Text of notebooks becomes safe HTML: formulas, tables, styles; nothing active gets through."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkd.study.report.markup import clean_html, formula_html, markdown_html


@pytest.mark.parametrize("latex, part", [
    (r"\begin{aligned} a &= b \\ c &= d \end{aligned}", "<mtable"),
    (r"\begin{cases} 1 & x > 0.7 \\ 0 & \text{otherwise} \end{cases}", "<mtext>otherwise</mtext>"),
    (r"\operatorname*{arg\,max}_c p_c", "<mtext>arg\xa0max</mtext>"),
    (r"\arg\min_x", "<mtext>arg\xa0min</mtext>"),
    (r"\epsilon \sim \mathcal{N}(0, 1)", "<mo>∼</mo>"),
    (r"a < b", "<mo>&lt;</mo>"),
    (r"\lVert z \rVert_2 \in \mathbb{R}^{C \times A}", "<mi>ℝ</mi>"),
])
def test_formulas_become_mathml(latex, part):
    assert part in formula_html(latex)


@pytest.mark.parametrize("latex", [r"\frac{", r"\nosuchcommand x", ""])
def test_formulas_that_cannot_be_converted_are_shown_as_source_or_empty(latex):
    assert "<math" not in formula_html(latex) or not latex


@pytest.mark.parametrize("text", [
    r"$\text{<script>alert(1)</script>}$", r"$\href{javascript:alert(1)}{x}$", r"$\style{x:expression(1)}{y}$",
    "[x](javascript:alert(1))", "<img src=x onerror=alert(1)>", "<iframe src='http://a'></iframe>",
    "[x](data:text/html,<script>alert(1)</script>)", "<svg onload=alert(1)><p>x</p></svg>",
    "<style>@import 'http://a';</style>", "<p style='background:url(http://a)'>x</p>", "![x](http://a/b.png)",
])
def test_nothing_active_gets_through(text):
    html = re.sub(r"&lt;.*?&gt;", "", markdown_html(text))
    assert not re.search(r"<(script|iframe|svg)|onerror|onload|@import|url\(|(src|href|style)=\"\w", html)


@given(st.text(alphabet="<>&\"'=$\\{}scriptonload/ \n#*`|[]()!-", max_size=60))
def test_no_text_makes_a_script_or_a_handler(text):
    html = markdown_html(text)
    assert not re.search(r"<script|<[a-z][^>]*\son\w+=", re.sub(r'"[^"]*"', '""', html), re.IGNORECASE)


def test_code_spans_keep_their_dollars():
    html = markdown_html("`a = $x$` costs \\$5")
    assert "a = $x$" in html and "<math" not in html


def test_styler_colours_stay_and_other_style_goes():
    text = "<style>#T_a1_row0_col0 { background-color: #eee; } body { display: none }</style><table id='T_a1'></table>"
    assert clean_html(text).startswith("<style>#T_a1_row0_col0 { background-color: #eee; }</style>")


def test_tables_with_two_levels_keep_their_headings():
    pd = pytest.importorskip("pandas")
    columns = pd.MultiIndex.from_product([["val", "test"], ["mIoU", "mAcc"]])
    index = pd.MultiIndex.from_product([["PSP", "DLv3"], ["CE", "LAD"]], names=["net", "row"])
    html = clean_html(pd.DataFrame([[1.5, 2, 3, 4]] * 4, index=index, columns=columns).to_html())
    assert html.count("<tr>") == 6 and html.count('<td class="num">') == 16
    assert re.sub(r"\s", "", html).count('<th>net</th><th>row</th><thclass="num">mIoU</th>') == 1


def test_run_ids_of_a_number_stay_for_the_mouse():
    cleaned = clean_html('<table><tbody><tr><td title="run-a, run-b" onclick="x()">35.1</td></tr></tbody></table>')
    assert '<td class="num" tabindex="-1" title="run-a, run-b">35.1</td>' in cleaned

"""Run ids behind the numbers of a table, through to the sanitised page."""

import pandas as pd
from bs4 import BeautifulSoup

from segkd.study.report.markup import clean_html
from segkd.study.tables.show import with_runs


def test_measured_numbers_name_their_runs_and_others_do_not():
    frame = pd.DataFrame({"row": ["KD", "a <b>"], "mIoU %": [35.1, 30.0], "paper mIoU %": [70.0, 71.0]})
    style = frame.style.hide(axis="index").format({"mIoU %": "{:.1f}"}, escape="html")
    page = BeautifulSoup(clean_html(with_runs(style, {"KD": ["kd-s0-1", "kd-s1-2"]}).to_html()), "html.parser")
    titles = {cell.get_text(): cell.get("title") for cell in page.find_all("td")}
    assert titles["35.1"] == "kd-s0-1, kd-s1-2" and not titles["30.0"] and not titles["KD"]
    assert not any(titles[text] for text in titles if text.startswith(("70", "71"))) and not page.select(".pd-t")

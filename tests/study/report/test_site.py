"""The page above all reports: a card each, gains side by side, and a command where pages are not there."""

import json

import pandas as pd
from bs4 import BeautifulSoup

from segkd.study.report.pages import all_studies
from segkd.study.report.site import build_site


ABOUT = {"data": "scenes at 96x128; more", "student": "fcn/resnet18", "teacher": "fcn/resnet50", "start": "random weights"}


def results(folder, profile, rows):
    folder.mkdir(parents=True)
    head = {"profile": profile, "dataset": "scenes", "paper": "all", "table": "main", "metric": "miou"}
    lines = [head | {"row": row, "seed": seed, "run": f"{row}-{seed}", "value": v / 100} for row, vs in rows.items() for seed, v in enumerate(vs)]
    pd.DataFrame(lines).to_csv(folder / "results.csv", index=False)
    (folder / "study.json").write_text(json.dumps({"profile": profile, "dataset": "scenes", "classes": [], "split": "test", "train_shares": []} | ABOUT))


def test_all_reports_on_one_page(tmp_path):
    results(tmp_path / "a-scenes", "a", {"baseline": [30.0, 31.0, 35.0], "CWD": [32.0, 33.2]})
    results(tmp_path / "b-scenes", "b", {"baseline": [20.0], "KD": [19.0], "my own": [1.0]})
    (tmp_path / "a-scenes" / "index.html").write_text("<html><head><title>a on scenes</title></head><main><section class='text'><p>Small.</p></section></main></html>")
    assert all_studies(tmp_path / "a-scenes") == [], "no way up to what is not there"
    page = BeautifulSoup(build_site(tmp_path).read_text(), "html.parser")
    rows = {line.th.get_text(): [cell.get_text() for cell in line.find_all("td")] for line in page.select("tbody tr")}
    assert [rows.pop(name) for name in ABOUT] == [[value.partition(";")[0]] * 2 for value in ABOUT.values()]
    assert rows == {"baseline": ["32.0 % mIoU, n = 3", "20.0 % mIoU, n = 1"], "KD": ["", "−1.0, n = 1"], "CWD": ["+2.1 (+0.8 to +3.4), n = 2", ""]}
    assert [card["href"] for card in page.select("a.card")] == ["a-scenes/index.html"]
    assert "make report PROFILE=b DATASET=scenes" in page.select_one(".notes").get_text()
    assert [link.get_text() for link in page.select("[aria-current]")] == ["Overview"] and "All studies" not in page.nav.get_text()
    assert [link.href for link in all_studies(tmp_path / "a-scenes")] == ["../index.html"]

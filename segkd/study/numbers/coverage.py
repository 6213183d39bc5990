"""Which of the printed tables there are here: rows printed, rows built, and rows with runs in a study."""

from __future__ import annotations

import pandas as pd

from segkd.study.numbers.study import open_study
from segkd.study.tables.papers import PAPERS
from segkd.study.tables.printed import TITLES, here, printed_tables, settings


def coverage(profile: str, dataset: str, **choice: str | None) -> pd.DataFrame:
    """A line for each printed table, and their sum.

    ``printed``: the settings (data set, networks, method, hyper-parameters) with a number in the paper; ``built``: those
    that are a row here, on their own data set; ``rows``: rows of the table in this study, our own baselines among them;
    ``with runs``: those of them with a finished run. ``choice`` as `open_study` takes it.
    """
    lines = []
    for paper in PAPERS:
        study = open_study(paper, profile, dataset, **choice)
        for key, title in TITLES[paper].items():
            rows, printed = study.rows(key), settings(paper, key)
            tables = [printed_tables(paper, data)[key] for data in {line["dataset"] for line in printed}]
            lines.append({
                "paper": paper.upper(), "table": key, "shows": title.split(": ", 1)[1], "printed": len(printed),
                "built": sum(row.reported is not None for table in tables for row in table.rows),
                "not here": sum(not here(line) for line in printed), "rows": len(rows),
                "with runs": sum(bool(study.runs(key, row.label)) for row in rows),
            })  # fmt: skip
    frame = pd.DataFrame(lines)
    total = frame[["printed", "built", "not here", "rows", "with runs"]].sum()
    return pd.concat([frame, pd.DataFrame([{"paper": "all", "table": "", "shows": f"{len(frame)} tables", **total}])], ignore_index=True)

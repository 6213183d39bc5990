"""Each number of a table names its runs: their ids appear where the mouse rests on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

NOT_MEASURED = ("row", "paper", "extra")  # how columns begin that no run stands behind


def with_runs(style: pd.io.formats.style.Styler, runs: Mapping[str, Sequence[str]]) -> pd.io.formats.style.Styler:
    """The table with a title attribute for each measured cell. ``runs``: ids by the row's label (column ``row``)."""
    shown = style.data
    ids = [", ".join(runs.get(label, ())) for label in shown["row"]]
    tips = pd.DataFrame({column: "" if column.startswith(NOT_MEASURED) else ids for column in shown}, index=shown.index)
    return style.set_tooltips(tips, as_title_attribute=True)

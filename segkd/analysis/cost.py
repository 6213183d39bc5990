"""What every network costs, counted and measured, and whether the cost columns of the papers can be recomputed."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pandas as pd
import torch

from segkd.analysis.figures.chart import tell
from segkd.analysis.figures.style import METHOD_COLOURS, styled, subplots
from segkd.models import complexity, create_model, list_models
from segkd.models.deploy import deployed

CLASSES = {"cityscapes": 19, "voc2012": 21, "ade20k": 150, "camvid": 11, "coco_stuff164k": 182}
STATED = {  # the image size (H, W) that the tables give with their multiply-adds
    "cityscapes": (1024, 2048), "voc2012": (512, 512), "ade20k": (512, 512), "camvid": (360, 480), "coco_stuff164k": (512, 512),
}  # fmt: skip
COUNTED = (512, 2048)  # what reproduces the rows of RDD's Tables 2 and 3 that say 512x512
OTHERS = (21, 150)  # class counts of other sets, where a number was taken over from their table
GIGA, MEGA = 1e9, 1e6
REPEATS = 3


def network_costs(
    size: tuple[int, int] = (1024, 2048), timed: tuple[int, int] = (96, 192), names: Iterable[str] | None = None
) -> pd.DataFrame:
    """A row a network of `list_models` at full width and 19 classes, cheapest first.

    ``params M`` (auxiliary heads included), ``aux M``, ``GMACs`` (true) and ``papers' GMACs`` at ``size`` (H, W);
    ``GMACs timed``, ``ms`` and ``MiB``: true multiply-adds, time (median of three) and peak memory beyond the weights of the
    deployed network on one image of ``timed``, on this machine; MiB is None where the system does not tell it.
    """
    lines = []
    for name in names or list_models():
        cost = counted(name, 19, 3, size)
        milliseconds, mebibytes = _measured(name, timed)
        lines.append({
            "network": name, "params M": cost["params"] / MEGA, "aux M": cost["aux_params"] / MEGA, "GMACs": cost["macs"] / GIGA,
            "papers' GMACs": cost["macs_paper"] / GIGA, "GMACs timed": counted(name, 19, 3, timed)["macs"] / GIGA, "ms": milliseconds, "MiB": mebibytes,
        })  # fmt: skip
    return pd.DataFrame(lines).sort_values("GMACs", ignore_index=True)


@cache
def counted(name: str, classes: int, in_channels: int, size: tuple[int, int]) -> dict[str, int]:
    """`complexity` of a network of `list_models`, built without memory."""
    with torch.device("meta"):
        model = create_model(*name.split("/"), in_channels=in_channels, classes=classes)
    return complexity(model, size)


def _measured(name: str, size: tuple[int, int]) -> tuple[float, float | None]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = deployed(create_model(*name.split("/"))).to(device)
    images = torch.rand(1, 3, *size, device=device)
    times = []
    with torch.no_grad():
        peak = peak_memory(lambda: model(images), device)  # also the warm-up
        for _ in range(REPEATS):
            begin = time.perf_counter()
            model(images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times), peak


def peak_memory(call: Callable[[], object], device: torch.device) -> float | None:
    """MiB that ``call`` takes at its peak beyond what is in use before; None where the system does not tell (no Linux)."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that the allocator still holds would hide what the call takes
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from the present size
    except (OSError, AttributeError):
        call()
        return None
    before = _status_mib("VmRSS")
    call()
    return _status_mib("VmHWM") - before


def _status_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def reported_costs(path: Path) -> pd.DataFrame:
    """Every ``params_m`` and ``flops_g`` of ``path`` (reported.csv) beside our count by the papers' rule.

    Columns: the row, ``quantity``, ``size`` (what the count was made at), ``reported`` (text, as printed), ``ours``
    and ``agrees``: "yes" (rounds to it), "last digit" (less than one of it away), "as 512x2048, 21 classes" (not for the
    stated size and the set's classes, but for those), "no" or "not here" (a network that is not in the zoo).
    """
    values = pd.read_csv(path, dtype=str, keep_default_na=False)
    return pd.DataFrame([_beside(row) for row in values.to_dict("records") if row["metric"] in ("params_m", "flops_g")])


def _beside(row: dict[str, str]) -> dict:
    name, label = (row["student"] or row["teacher"]).replace("_", "/", 1), False
    if name.endswith("+label"):
        name, label = name.removesuffix("+label"), True
    found = {key: row[key] for key in ("paper", "table", "dataset", "method")} | {"network": name + "+label" * label}
    found |= {"quantity": row["metric"], "size": STATED[row["dataset"]], "reported": row["value"]}
    if name not in list_models():
        return found | {"ours": None, "agrees": "not here"}
    unit, key = (MEGA, "params") if row["metric"] == "params_m" else (GIGA, "macs_paper")
    own = STATED[row["dataset"]], CLASSES[row["dataset"]]
    for size, classes in (own, *((size, n) for size in (own[0], COUNTED) for n in (own[1], *OTHERS))):
        ours = counted(name, classes, 3 + label, size)[key] / unit
        verdict = agreement(row["value"], ours)
        if verdict != "no":
            as_if = f"as {size[0]}x{size[1]}, {classes} classes"
            return found | {"size": size, "ours": ours, "agrees": verdict if (size, classes) == own else as_if}
    return found | {"ours": counted(name, own[1], 3 + label, own[0])[key] / unit, "agrees": "no"}


def agreement(printed: str, ours: float) -> str:
    """How ``ours`` stands to a printed number: "yes" (rounds to it), "last digit" (less than one unit of it away), "no"."""
    digits = len(printed.partition(".")[2])
    away = abs(ours - float(printed))
    return "yes" if away <= 0.5 * 10**-digits + 1e-9 else "last digit" if away < 10**-digits else "no"


def misstated(found: pd.DataFrame) -> pd.DataFrame:
    """The multiply-adds of ``found`` (`reported_costs`) that need another size or class count, beside our other counts."""
    rows = found[found["agrees"].str.startswith("as ") & (found["quantity"] == "flops_g")]
    shown = rows[["paper", "table", "dataset", "network", "reported"]].reset_index(drop=True)
    for size in ((512, 512), COUNTED):
        pairs = zip(rows["network"], rows["dataset"])
        giga = [counted(name, CLASSES[data], 3, size)["macs_paper"] / GIGA for name, data in pairs]
        shown[f"ours, {size[0]}x{size[1]}"] = giga
    shown["reproduced"] = rows["agrees"].to_list()
    return shown.round(2)


def costs_table(costs: pd.DataFrame) -> pd.io.formats.style.Styler:
    """``costs`` of `network_costs`, ready to show."""
    formats = {column: "{:.1f}" for column in costs.columns[1:]} | dict.fromkeys(("params M", "aux M", "GMACs timed"), "{:.2f}")
    return costs.style.hide(axis="index").format(formats, na_rep="–")


def reported_table(found: pd.DataFrame) -> pd.io.formats.style.Styler:
    """``found`` of `reported_costs` with parameters and multiply-adds side by side; rows that do not agree are bold."""
    row = ["paper", "table", "dataset", "network", "method", "copy"]
    found = found.assign(copy=found.groupby([*row[:-1], "quantity"]).cumcount())
    wide = found.pivot(index=row, columns="quantity", values=["reported", "ours", "agrees"])
    wide = wide.loc[list(found.drop_duplicates(row)[row].itertuples(index=False, name=None))]
    at = wide.index.to_frame(index=False)
    both = [_both(*pair) for pair in zip(wide["agrees"]["params_m"], wide["agrees"]["flops_g"])]
    shown = pd.DataFrame({
        "table": at["paper"].str.upper() + " " + at["table"].str.removeprefix("Table "), "data": at["dataset"],
        "network": at["network"], "method": at["method"], "params M": wide["reported"]["params_m"].to_numpy(),
        "ours": wide["ours"]["params_m"].to_numpy(), "GMACs": wide["reported"]["flops_g"].to_numpy(),
        "ours ": wide["ours"]["flops_g"].to_numpy(), "agrees": both,
    })  # fmt: skip
    bold = lambda text: "" if text in ("yes", "not here") else "font-weight: bold"  # noqa: E731
    formats = {"ours": "{:.2f}", "ours ": "{:.2f}", "params M": "{}", "GMACs": "{}"}
    return shown.style.hide(axis="index").map(bold, subset=["agrees"]).format(formats, na_rep="–")


def _both(params: object, flops: str) -> str:
    """One verdict for a row's two numbers; ``params`` is NaN where none are printed."""
    params = params if isinstance(params, str) else flops
    parts = [f"{name} {verdict}" for name, verdict in (("params", params), ("GMACs", flops)) if verdict != "yes"]
    return flops if params == flops else ", ".join(parts)


@styled
def cost_figure(costs: pd.DataFrame):
    """Multiply-adds against time, a dot a network, as large as its parameters; a line of equal speed through the median."""
    figure, axes = subplots(figsize=(8, 5))
    head = costs["network"].str.split("/").str[0]
    hues = dict(zip(sorted(set(head)), [c for key, c in METHOD_COLOURS.items() if key not in ("baseline", "teacher")]))
    for arch, rows in costs.groupby(head):
        axes.scatter(rows["GMACs timed"], rows["ms"], 12 + 4 * rows["params M"], color=hues[arch], alpha=0.8, lw=0, label=arch)
    each = costs["ms"] / costs["GMACs timed"]
    ends = [costs["GMACs timed"].min(), costs["GMACs timed"].max()]
    axes.plot(ends, [each.median() * end for end in ends], color="#666666", lw=1, ls="--", label="equal speed")
    axes.set(xscale="log", yscale="log", xlabel="true multiply-adds (G), at the timed size", ylabel="ms an image")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    for handle in legend.legend_handles:
        getattr(handle, "set_sizes", lambda sizes: None)([40])
    marks = [(axes, x, x, y, y, f"{name}: {y:.1f} ms, {x:.2f} GMACs, {p:.2f} M parameters") for name, x, y, p in costs[["network", "GMACs timed", "ms", "params M"]].itertuples(index=False)]
    slow = f"{costs['network'][each.idxmax()]} waits longest for its multiply-adds ({each.max() / each.median():.1f} times the median), {costs['network'][each.idxmin()]} least ({each.min() / each.median():.1f} times)."
    return tell(figure, "Dots: milliseconds over multiply-adds, a dot a network", slow, marks)


@styled
def rule_figure(costs: pd.DataFrame):
    """By how many percent the papers' rule counts more than is computed, a bar a network."""
    extra = (100 * (costs["papers' GMACs"] / costs["GMACs"] - 1)).set_axis(costs["network"]).sort_values()
    figure, axes = subplots(figsize=(8, 0.8 + 0.2 * len(extra)))
    axes.barh(extra.index, extra, color=METHOD_COLOURS["cwd"])
    axes.axvline(0, color="#333333", lw=1)
    axes.set(xlabel="papers' count above the true one (%)")
    axes.margins(y=0.01)
    axes.grid(axis="y", visible=False)
    marks = [(axes, *axes.get_xlim(), y - 0.4, y + 0.4, f"{name}: {value:+.2f} %") for y, (name, value) in enumerate(extra.items())]
    said = f"The papers' rule counts up to {extra.max():.0f} % too much ({extra.idxmax()}) and {-extra.min():.0f} % too little ({extra.idxmin()})."
    return tell(figure, "Bars: the papers' count of multiply-adds against the true one", said, marks)


def headline(costs: pd.DataFrame, found: pd.DataFrame) -> dict[str, str]:
    """How many of the papers' cost numbers can be recomputed, and where the fastest network stands."""
    counts = found["agrees"].value_counts()
    here = found[found["agrees"] != "not here"]
    fastest = costs.loc[costs["ms"].idxmin()]
    return {
        "cost numbers recomputed": f"{int((here['agrees'] != 'no').sum())} of {len(here)}",
        "for another size or class count than stated": str(int(here["agrees"].str.startswith("as ").sum())),
        "not reproduced": str(int(counts.get("no", 0))),
        "networks that are not here": str(found[found["agrees"] == "not here"]["network"].nunique()),
        "fastest network": f"{fastest['network']} ({fastest['ms']:.0f} ms)",
    }

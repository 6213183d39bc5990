"""The tables of the four papers as rows: which method with which setting stands behind each line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from segkd.losses.method import create_method
from segkd.losses.rows import ROW_HYPER, ROWS
from segkd.registry import unknown
from segkd.study.tables.printed import printed_tables
from segkd.study.tables.reported import fitted
from segkd.study.tables.table import ROUNDING, Row, Table

COPIES = 3  # of each row of the table "floor"


def _row(label: str, paper: str, method: str, setting: str | None = "") -> Row:
    """A row as ROWS defines it. ``setting``: the one in reported.csv; None where nothing is reported."""
    key = paper, method
    reported = None if setting is None else (method, setting)
    return Row(label, ROWS[key], ROW_HYPER.get(key, {}), reported=reported, control=method if paper == "controls" else "")


TEACHER = Row("teacher (plain, larger)", role="teacher", reported=("teacher", ""))
BASELINE = Row("baseline", reported=("baseline", ""))
CWD = Row("CWD", "cwd", reported=("cwd", ""))
LABEL_TEACHER = Row("teacher (label-assisted)", "lad", role="label_teacher", reported=("label_teacher", ""))


def _thin(values: list, levels: int | None, keep: Any) -> list:
    """At most ``levels`` of the values: ``keep`` (the paper's default), then the first, then the last."""
    if levels is None or len(values) <= levels:
        return values
    chosen = list(dict.fromkeys([keep, values[0], values[-1]]))[:levels]
    return [v for v in values if v in chosen]


def _lad(levels: int | None) -> dict[str, Table]:
    reported = {"paper": "lad", "table": "Table 1", "dataset": "cityscapes", "split": "val", "student": "deeplabv3_resnet18"}
    main = (
        BASELINE, CWD, Row("LAD", "lad+cwd", reported=("lad", "")),
        TEACHER, LABEL_TEACHER,
    )  # fmt: skip
    noise = []
    for on in (True, False):
        for alpha in _thin([0.0, 0.001, 0.01, 0.1, 1.0], levels, 0.01):
            hyper = {"lad": {"alpha": alpha, "class_noise": on}}
            level = {"alpha": alpha, "class noise": "on" if on else "off"}
            setting = f"alpha={alpha:g};classwise={'on' if on else 'off'}".replace("alpha=1;", "alpha=1.0;")
            name = f"alpha {alpha:g}, class noise {level['class noise']}"
            noise.append(Row(f"teacher, {name}", "lad", hyper, "label_teacher", level, ("teacher", setting)))
            noise.append(Row(f"student, {name}", "lad+cwd", hyper, "student", level, ("lad", setting)))
    table9 = {"paper": "lad", "table": "Table 9", "dataset": "cityscapes", "split": "val", "student": "stdc2"}
    clean = {"lad": {"alpha": 0.0, "class_noise": False}}
    shortcut = (
        Row("noised label", "lad", role="label_teacher", reported=("teacher", "alpha=0.01;classwise=on")),
        Row("clean label", "lad", clean, role="label_teacher", reported=("teacher", "alpha=0;classwise=off")),
    )
    return {
        "main": Table("LAD Table 1: a label-assisted copy of the student against a larger plain teacher", main, reported),
        "noise": Table("LAD Table 9: class-wise noise and pixel noise alpha", tuple(noise), table9, ("alpha", "class noise")),
        "shortcut": Table("LAD Fig. 4: a teacher shown noised labels and one shown clean labels", shortcut, table9),
    }


def _fakd(levels: int | None) -> dict[str, Table]:
    reported = {
        "paper": "fakd", "table": "Table 1", "dataset": "ade20k", "student": "pspnet_resnet18", "student_init": "imagenet",
    }  # fmt: skip
    table4 = {"paper": "fakd", "table": "Table 4", "dataset": "ade20k", "student": "pspnet_resnet18"}
    main = (BASELINE, CWD, Row("FAKD", "fakd_cwd", reported=("fakd", "")), TEACHER)
    distance = (
        BASELINE, Row("PD", "kd", reported=("pd", "")), Row("FAKD on PD", "fakd_pd", reported=("fakd_pd", "")),
        CWD, Row("FAKD on CWD", "fakd_cwd", reported=("fakd_cwd", "")),
    )  # fmt: skip
    lam = [Row("lambda 0 (CWD)", "cwd", level={"lambda": 0.0}, reported=("cwd", ""), source={"table": "Table 4"})]
    for value in _thin([0.5, 1.0, 1.5, 2.5], levels, 1.0):
        hyper = {"fakd_cwd": {"lam_max": value}}
        lam.append(Row(f"lambda {value:g}", "fakd_cwd", hyper, level={"lambda": value}, reported=("fakd", f"lambda={value:.1f}")))
    return {
        "main": Table("FAKD Table 1: feature augmentation against plain CWD", main, reported),
        "distance": Table("FAKD Table 4: augmentation on either loss", distance, table4),
        "lambda": Table("FAKD Table 5: final strength lambda", tuple(lam), {**table4, "table": "Table 5"}, ("lambda",), note="paper: Table 5, ADE20K, PSPNet-R18; strength 0: Table 4"),
    }


def _hwd(levels: int | None) -> dict[str, Table]:
    reported = {"paper": "hwd", "table": "Table II", "dataset": "ade20k", "student": "deeplabv3_resnet18"}
    sweep = lambda axis, key, values, fixed: tuple(  # noqa: E731
        Row(f"{axis} {v:g}", "hwd", {"hwd": {key: v, **fixed}}, level={axis: v}) for v in values
    )
    beta = _thin([0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99], levels, 0.1)
    tau = _thin([1.0, 2.0, 3.0, 4.0, 5.0, 8.0], levels, 1.0)
    mu = _thin([-1.0, -0.5, 0.0, 0.5, 1.0, 2.0], levels, 0.0)
    return {
        "main": Table(
            "HWD Table II: per-channel weights against plain CWD",
            (BASELINE, CWD, Row("HWD", "hwd", reported=("hwd", "")), TEACHER), reported,
        ),
        "beta": Table("HWD Fig. 6 left: smoothing beta", (CWD, *sweep("beta", "beta", beta, {})), axes=("beta",)),
        "tau": Table(
            "HWD Fig. 6 right: plain softmax temperature tau' instead of smoothing",
            (CWD, *sweep("tau'", "softmax_temperature", tau, {})), axes=("tau'",),
        ),
        "mu": Table("HWD Fig. 7: mean mu of the weights", (CWD, *sweep("mu", "mu", mu, {})), axes=("mu",)),
    }  # fmt: skip


def _rdd(levels: int | None) -> dict[str, Table]:
    base = {"paper": "rdd", "dataset": "cityscapes", "student": "deeplabv3_resnet18"}
    rdd = lambda label, hyper, level, reported: Row(label, "kd+rdd", {"rdd": hyper}, level=level, reported=reported)  # noqa: E731
    main = (
        BASELINE, Row("KD", "kd", reported=("kd", "")), Row("RDD", "kd+rdd", reported=("kd+rdd", "")), TEACHER,
    )  # fmt: skip
    shares = {0.0: "c;p=0%", 0.1: "d;p=10%", 0.2: "e;p=20%", 0.3: "f;p=30%"}
    stages = [BASELINE, rdd("TFE alone", {"stage": "tfe"}, {"stages": "TFE"}, ("rdd_tfe", "row=a;tfe=on;tse=off"))]
    for share in _thin(list(shares), levels, 0.1):
        label = "TSE alone (p = 0 %)" if share == 0 else f"TFE then TSE, p = {share:.0%}".replace("%", " %")
        stages.append(rdd(label, {"warmup": share}, {"stages": f"{share:g}"}, ("rdd", f"row={shares[share]}")))
    modes = (BASELINE, *(
        rdd(m.upper(), {"mode": m}, {"mode": m.upper()}, ("rdd", f"mode={m.upper()};p=10%")) for m in ("xor", "or", "and")
    ))  # fmt: skip
    added = {"AT": "at", "DSD": "dsd", "CIRKD": "cirkd"}
    pairs = [(name, key) for label, part in added.items() for name, key in ((label, part), (f"{label} + RDD", f"{part}+rdd"))]
    integration = (BASELINE, *(_row(label, "rdd", method) for label, method in pairs))
    return {
        "main": Table("RDD Table 8: KD with and without relative difficulty", main, {**base, "table": "Table 8"}),
        "integration": Table("RDD Table 8: other methods with relative difficulty", integration, {**base, "table": "Table 8"}),
        "stages": Table("RDD Table 5: stages and warm-up share", tuple(stages), {**base, "table": "Table 5"}, ("stages",)),
        "mode": Table("RDD Table 6: how the two hard sets are joined", modes, {**base, "table": "Table 6"}, ("mode",)),
    }


def _copies(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Each row as it is, then its copies that are rounded otherwise."""
    copy = lambda row, k: replace(row, label=f"{row.label}, {ROUNDING}{k}", control=f"{ROUNDING}{k}") if k else row  # noqa: E731
    return tuple(replace(copy(row, k), level={"rounding": k}, reported=None) for row in rows for k in range(COPIES + 1))


def _all(levels: int | None) -> dict[str, Table]:
    """The comparison that no single paper makes: every method, one protocol, the same seeds."""
    rows = (
        BASELINE, Row("KD", "kd"), CWD, Row("FAKD on PD", "fakd_pd"), Row("FAKD", "fakd_cwd"), Row("HWD", "hwd"),
        Row("RDD", "kd+rdd"), Row("LAD", "lad+cwd"), TEACHER, LABEL_TEACHER,
    )  # fmt: skip
    rivals = (
        BASELINE, _row("SKD", "rdd", "skd", None), _row("IFVD", "rdd", "ifvd", None),
        _row("CWD as in CIRKD's tables", "rdd", "cwd", None), _row("AT", "rdd", "at", None),
        _row("DSD", "rdd", "dsd", None), Row("FitNet", "kd+fitnet"), _row("CIRKD", "rdd", "cirkd", None),
        _row("MasKD", "lad", "maskd", None), _row("MGD", "hwd", "mgd", None), Row("DIST", "dist"),
    )  # fmt: skip
    controls = (
        BASELINE, CWD, _row("baseline, 1.5 times as long", "controls", "longer", None),
        _row("CWD, untrained teacher", "controls", "untrained_teacher", None),
        _row("CWD, teacher with shuffled classes", "controls", "shuffled_teacher", None),
    )  # fmt: skip
    tuning = tuple(
        Row(
            "baseline, untuned" if (lr, decay) == (1.0, 1.0) else f"learning rate x {lr:g}, weight decay x {decay:g}",
            level={"learning rate x": lr, "weight decay x": decay}, tuning=(lr, decay),
        )
        for lr in (0.5, 1.0, 2.0) for decay in (1.0, 100.0)
    )  # fmt: skip
    pairs = (("HWD", "hwd"), ("RDD", "kd+rdd"), ("LAD", "lad+cwd"))
    codes = (BASELINE, *(
        row for label, spec in pairs
        for row in (Row(label, spec), Row(f"{label}, as its code", spec, create_method(spec, variant="official").hyper()))
    ))  # fmt: skip
    combinations = (BASELINE, *(Row(label, spec) for label, spec in SUMS.items()))
    return {
        "main": Table("Every method under one protocol", rows),
        "rivals": Table("The methods that the four papers compare with", rivals),
        "tuning": Table(
            "The baseline, tuned on val before any method", tuning, axes=("learning rate x", "weight decay x"), on_request=True
        ),
        "codes": Table("Methods as their papers and as their released code have them", codes, on_request=True),
        "combinations": Table("Combinations that no paper tried", combinations, on_request=True),
        "floor": Table(
            "The rounding floor: the same runs, their start weights off by the last digit", _copies((BASELINE, CWD, TEACHER)),
            axes=("rounding",), on_request=True, first_seed=True,
        ),
        "controls": Table("Controls: what training longer, or a useless teacher, would give", controls),
    }


SUMS = {  # of methods, which no paper tried
    "CWD + RDD": "cwd+rdd", "FAKD + RDD": "fakd_cwd+rdd", "HWD + RDD": "hwd+rdd", "LAD + RDD": "lad+cwd+rdd",
    "LAD + FAKD": "lad+fakd_cwd", "LAD + HWD": "lad+hwd", "LAD + FAKD + RDD": "lad+fakd_cwd+rdd", "LAD + HWD + RDD": "lad+hwd+rdd",
}  # fmt: skip
PAPERS = {"lad": _lad, "fakd": _fakd, "hwd": _hwd, "rdd": _rdd}
COMPARISON = "all"


def paper_tables(
    paper: str, levels: int | None, dataset: str = "", student: str = "", own: bool = False, beside: str = ""
) -> dict[str, Table]:
    """All tables of a paper (or of the joint comparison, ``all``).

    First those that a study trains by itself, ablation axes thinned to ``levels``; then ``table1``, ``table2``, ...: every
    table as it is printed, trained on request. ``dataset`` chooses which of the paper's numbers stand beside ours;
    ``student``: printed tables keep this network's rows alone; ``own``: with the networks of the paper's table instead of
    the study's; ``beside``: the student whose printed numbers stand in the study's own tables.
    """
    known = {**PAPERS, COMPARISON: _all}
    if paper not in known:
        raise unknown("paper", paper, known)
    found = {key: fitted(table, dataset, student or beside, own) for key, table in known[paper](levels).items()}
    return found if paper == COMPARISON else found | printed_tables(paper, dataset, student, own)


def comparison_rows(*tables: str) -> dict[str, Row]:
    """The rows of these tables of the comparison of all methods, by label, each once."""
    found = paper_tables(COMPARISON, None)
    return {row.label: row for name in tables for row in found[name].rows}


def single_methods() -> dict[str, Row]:
    """The students of the comparison that one method taught: the four papers', then those that they compare with."""
    return {label: row for label, row in comparison_rows("main", "rivals").items() if row.role == "student" and row.spec != "baseline"}


def keys_of(paper: str, names: list[str] | None, found: dict[str, Table]) -> list[str] | None:
    """Those of TABLES (``names``) that are keys of this paper, whose tables are ``found``; UserError for one that no paper has."""
    if not names:
        return None
    keep = []
    for name in names:
        owner, _, key = name.rpartition("/")
        if owner and owner not in (*PAPERS, COMPARISON):
            raise unknown("paper in TABLES:", owner, (*PAPERS, COMPARISON))
        owners = [owner] if owner else [paper, *PAPERS, COMPARISON]
        if not any(key in paper_tables(p, 1) for p in owners):
            raise unknown(f"table of {owner or paper}:", key, paper_tables(owner, 1) if owner else found)
        if owner in ("", paper) and key in found:
            keep.append(key)
    return keep

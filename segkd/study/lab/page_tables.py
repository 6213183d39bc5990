"""What the analysis pages say of what they measured: tables, headline numbers, rows of pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from segkd.analysis.activation import activation_map, hardest
from segkd.analysis.difficulty import CASES
from segkd.analysis.features import class_silhouettes
from segkd.analysis.figures.pictures import colorize
from segkd.analysis.thin import chosen_frames, thinnest
from segkd.metrics import label_pixels
from segkd.prediction import IGNORE
from segkd.study.lab.views import by_seed
from segkd.study.numbers.study import Study
from segkd.study.tables.reported import reported_values


def divergence_table(study: Study, ratios: pd.DataFrame) -> pd.io.formats.style.Styler:
    """TD / NTD of each class, mean over seeds, beside HWD's Table I where the data set has the paper's classes."""
    if ratios.empty:
        return ratios.style
    printed = reported_values()
    printed = printed[printed["metric"] == "td_over_ntd"].assign(name=lambda f: f["setting"].str.removeprefix("class="))
    if printed["dataset"].eq(study.dataset).any():
        values = printed.set_index("name")["value"].astype(float)
        ratios = ratios.assign(paper=ratios["class"].str.lower().map(values))
    names = {"ratio": "TD / NTD", "ratio_per_image": "median per image", "images": "images", "paper": "paper"}
    shown = [name for name in names if name in ratios]
    means = ratios.groupby("class", sort=False)[shown].mean()
    style = means.rename(columns=names).style.format("{:.1f}", na_rep="–")
    return style.format("{:.0f}", subset="images").format_index(escape="html")


def divergence_headline(ratios: pd.DataFrame) -> dict[str, str]:
    """For how many classes the student differs more on the class's pixels than elsewhere, as text."""
    if ratios.empty:
        return {}
    means = ratios.groupby("class")["ratio"].mean()
    return {"classes with TD / NTD above 1": f"{(means > 1).sum()} of {len(means)}"}


def widths_table(frame: pd.DataFrame, chosen: Sequence[str]) -> pd.io.formats.style.Styler:
    """The classes by mean width (``thin.widths_frame``), at most 25 of them, those that choose the frames marked."""
    shown = frame.head(25).assign(chosen=["yes" if name in chosen else "" for name in frame.head(25)["class"]])
    names = {"width": "mean width (pixels)", "share": "share of pixels (%)", "chosen": "chooses the frames"}
    return shown.rename(columns=names).style.hide(axis="index").format("{:.1f}", subset=list(names.values())[:2], escape="html")


def thin_table(ious: pd.DataFrame) -> pd.io.formats.style.Styler:
    """IoU in percent of some classes, a line a method: mean over seeds, and over the classes."""
    return by_seed(ious.assign(iou=100 * ious["iou"]) if len(ious) else ious, "iou", 1, "class")


def thin_headline(ious: pd.DataFrame) -> dict[str, str]:
    """Mean IoU of the thin classes for the main students, as text."""
    means = 100 * ious.groupby("method")["iou"].mean() if len(ious) else {}
    return {f"IoU of thin classes, {row}": f"{means[row]:.1f}" for row in ("baseline", "CWD", "HWD", "RDD") if row in means}


def cases_table(cases: pd.DataFrame) -> pd.io.formats.style.Styler:
    """Mean share of each case in percent at points of the training, and the share of XOR that only the student finds hard."""
    if cases.empty:
        return cases.style
    means = 100 * cases.groupby("percent")[list(CASES)].mean()
    kept = means["student alone"] + means["teacher alone"]
    means["of XOR, student alone"] = 100 * means["student alone"] / kept.where(kept > 0)
    return means.rename_axis("% of steps").style.format("{:.1f} %", na_rep="–")


def difficulty_headline(outcome: pd.DataFrame, cases: pd.DataFrame, edges: pd.DataFrame) -> dict[str, str]:
    """Weights on right and wrong pixels, the cases at the end, and boundary IoU with and without RDD, as text."""
    found = {}
    if len(outcome):
        right, wrong = outcome[["right", "wrong"]].mean()
        found["TFE weight on right and wrong pixels"] = f"{right:.2f}, {wrong:.2f}"
    if len(cases):
        end = 100 * cases[cases["percent"] == cases["percent"].max()][list(CASES)].mean()
        shares = f"{end['student alone']:.0f} %, {end['teacher alone']:.0f} %"
        found["hard for the student alone, the teacher alone, at the end"] = shares
    means = edges.groupby("method")["boundary IoU"].mean() if len(edges) else pd.Series(dtype=float)
    for without, with_rdd in (("KD", "RDD"), ("AT", "AT + RDD"), ("DSD", "DSD + RDD"), ("CIRKD", "CIRKD + RDD")):
        if {without, with_rdd} <= set(means.index):
            found[f"boundary IoU, {without} and {with_rdd}"] = f"{means[without]:.1f}, {means[with_rdd]:.1f}"
    return found


def class_silhouette_table(samples: dict, classes: Sequence[str]) -> pd.io.formats.style.Styler:
    """Mean silhouette of the sampled pixels of each class, a column per network: {name: (features, classes)}."""
    found = {name: class_silhouettes(*sample, classes) for name, sample in samples.items()}
    return pd.DataFrame(found).style.format("{:.2f}", na_rep="–").format_index(escape="html")


def hard_classes(study: Study) -> list[str]:
    """The third of the classes with the lowest IoU of the baseline, mean over seeds; [] without a baseline."""
    ious = study.class_iou("main", ["baseline"])
    return hardest(ious.groupby("class", sort=False)["iou"].mean()) if len(ious) else []


def activation_rows(networks: dict, packed, classes: Sequence[str]) -> list[dict]:
    """Rows of ``pictures.map_sheet``: image, label of the hard classes alone, activation of each network (FAKD Fig. 3)."""
    ids = [packed.classes.index(name) for name in classes]
    rows = []
    for index, _ in chosen_frames(packed.labels, ids, share=1.0) if networks and ids else ():
        image, label = packed.images[index], packed.labels[index]
        only = np.where(np.isin(label, ids), label, IGNORE)
        maps = {name: activation_map(network, image) for name, network in networks.items()}
        rows.append({"image": image, "hard classes": colorize(only, packed.palette), **maps})
    return rows


def activation_table(ratios: pd.DataFrame) -> pd.io.formats.style.Styler:
    """Activation inside over outside, a line a class: mean over seeds, a column per network."""
    if ratios.empty:
        return ratios.style
    table = ratios.pivot_table(index="class", columns="method", values="ratio", sort=False)
    return table.rename_axis(index=None, columns=None).style.format("{:.2f}", na_rep="–").format_index(escape="html")


def feature_headline(scores: dict[str, float], ratios: pd.DataFrame) -> dict[str, str]:
    """Silhouettes, and the activation on hard classes over that elsewhere, as text."""
    found = {f"silhouette, {row}": f"{value:+.3f}" for row, value in scores.items()}
    together = ratios[ratios["class"] == "together"].groupby("method", sort=False)["ratio"].mean() if len(ratios) else {}
    return found | {f"activation on hard classes, {row}": f"{together[row]:.2f}" for row in together.keys()}


def explained_classes(packed, first: int, count: int = 3) -> list[int]:
    """Classes whose scores are explained: ``first``, then the most frequent and the thinnest others, ``count`` in all."""
    pixels = label_pixels(packed.labels)[: packed.num_classes]
    frequent = [int(c) for c in np.argsort(-pixels) if pixels[c]]
    thin = thinnest(packed.labels, packed.num_classes, packed.num_classes)
    return list(dict.fromkeys([first, *frequent[:1], *thin, *frequent]))[:count]


def shortcut_headline(shares: pd.DataFrame, stability: pd.DataFrame) -> dict[str, str]:
    """Mean share of the image for each teacher, and what the noise draw changes, as text."""
    found = {}
    if len(shares):
        means = shares.groupby("method", sort=False)["image_share"].mean()
        found |= {f"share of the image, {name}": f"{100 * value:.0f} %" for name, value in means.items()}
    if len(stability):
        low, high = stability["mkl"].min(), stability["mkl"].max()
        found["pairwise KL between noise draws, x 100"] = f"{100 * low:.1f} to {100 * high:.1f}"
    return found

"""What the papers say happens inside a trained network, as one number a run, on the first LIMIT images of its test split.

The measures themselves are those of `segkd.analysis`, which the pages on features, difficulty and classes show in full.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from segkd.analysis.activation import inside_outside
from segkd.analysis.boundary import boundary_band, predicted_maps, split_bins
from segkd.analysis.channels import divergence_ratios
from segkd.analysis.difficulty import near_boundaries, training_cases, weights_by_outcome
from segkd.analysis.features import pixel_features, silhouette
from segkd.analysis.layercam import input_ablation
from segkd.analysis.stability import noise_sensitivity
from segkd.analysis.thin import thinnest
from segkd.config import ROOT
from segkd.data.store import Packed
from segkd.losses.hwd import holistic_weights
from segkd.metrics import confusion_matrix, label_pixels, scores
from segkd.prediction import IGNORE, resize_scores
from segkd.runs import MEASURED, Run, find, split_of, teacher_kind
from segkd.train.evaluate import batches
from segkd.train.state import read_json, write_json

LIMIT = 64  # images
BAND = 2  # pixels on either side of a label boundary
_known: dict[tuple, dict[str, float]] = {}


def once(measure: Callable) -> Callable:
    """Decorator: the measure of a run is computed once, and again if the run was trained anew or the measures have changed.

    A measure is a number, or several by name. Beside the run's files it is kept for other pages. Of a run whose network is not
    here it is the number that was measured when it was (frozen.py).
    """

    @functools.wraps(measure)
    def remembered(run: Run, **options: object) -> float | dict[str, float]:
        name = " ".join([measure.__name__, *(f"{key}={value}" for key, value in options.items())])
        key = name, run.id, (run.path / "result.json").stat().st_mtime_ns
        if key not in _known:
            kept = _kept(run)
            if name not in kept:
                with torch.no_grad():
                    found = measure(run, **options)
                kept = _kept(run) | {name: found if isinstance(found, dict) else {"": found}}  # others measure too
                write_json(run.path / MEASURED, {"of": _stamp(run), "values": kept})
            _known[key] = kept[name]
        return _known[key].get("", _known[key])

    return remembered


def _kept(run: Run) -> dict[str, dict[str, float]]:
    """What was measured of the run as it is, by the measures as they are: its parts by measure."""
    path = run.path / MEASURED
    found = read_json(path, "delete it: it is measured again") if path.exists() else {}
    return found["values"] if run.kept or found.get("of") == _stamp(run) else {}


def _stamp(run: Run) -> str:
    return f"{_sources()} {(run.path / 'result.json').stat().st_mtime_ns}"


@functools.cache
def _sources() -> str:
    """Hash of the code that measures: this file and ``segkd/analysis``."""
    files = [Path(__file__), *sorted((ROOT / "segkd" / "analysis").glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def measured() -> pd.DataFrame:
    """All that this process measured: run, measure, part (of a measure of several numbers), value."""
    newest = {(run, name): parts for (name, run, _), parts in _known.items()}
    lines = [(*key, part, number) for key, parts in newest.items() for part, number in parts.items()]
    return pd.DataFrame(lines, columns=["run", "measure", "part", "value"]).sort_values(["measure", "run"], ignore_index=True)


def seen(run: Run) -> Packed:
    """The first LIMIT images of the run's declared split."""
    return split_of(run.config, run.config.data.split).first(LIMIT)


def plain_teacher(run: Run) -> nn.Module:
    """The network that taught the run from images alone."""
    return find(run.config.teacher).load_model()


@once
def thin_iou(run: Run) -> float:
    """Mean IoU in [0, 1] of the three classes with the thinnest regions (HWD Fig. 4)."""
    thin = thinnest(seen(run).labels, run.result["num_classes"])
    found = [run.result["iou"][c] for c in thin if run.result["iou"][c] is not None]
    return float(np.mean(found)) if found else math.nan


@once
def boundary_miou(run: Run) -> float:
    """mIoU in [0, 1] of the pixels within BAND of a label boundary (RDD Fig. 5 and 6)."""
    return _miou(run.load_model(), seen(run), lambda labels: boundary_band(labels, BAND))


def _miou(model: nn.Module, packed: Packed, where: Callable = torch.ones_like, change: Callable = lambda images: images) -> float:
    """mIoU in [0, 1] of a network that sees the image alone, as ``change`` leaves it, on the pixels that ``where`` says of
    the labels."""
    total = torch.zeros(packed.num_classes, packed.num_classes, dtype=torch.int64)
    for guess, labels in predicted_maps(model, packed, change):
        total += confusion_matrix(guess, labels.masked_fill(~where(labels).bool(), IGNORE), packed.num_classes)
    return scores(total)["miou"]


@once
def plain_image_drop(run: Run) -> float:
    """mIoU in [0, 1] that a network without a label channel loses when each image becomes its mean colour."""
    model, packed = run.load_model(), seen(run)
    flat = lambda images: ((255 * images).mean((2, 3), keepdim=True).round() / 255).expand_as(images)  # noqa: E731
    return _miou(model, packed) - _miou(model, packed, change=flat)


@once
def input_scores(run: Run) -> dict[str, float]:
    """mIoU in [0, 1] that a label-assisted network loses without the image (``drop_image``) and without the label
    (``drop_label``), and the part that is left without the image (``kept_by_label``; LAD Fig. 4)."""
    model = run.load_model()
    noise = teacher_kind(run.config, model.info).teaching_noise
    miou = input_ablation(model, seen(run), noise, seed=run.config.seed).set_index("input")["miou"]
    both, label, image = (float(miou[name]) for name in ("image and label", "label only", "image only"))
    return {"drop_image": both - label, "drop_label": both - image, "kept_by_label": label / both if both else math.nan}


@once
def pairwise_kl(run: Run) -> float:
    """Mean KL between a label-assisted network's answers to three draws of the label noise (LAD Table 8)."""
    model = run.load_model()
    return noise_sensitivity(model, seen(run), teacher_kind(run.config, model.info).teaching_noise, seed=run.config.seed)


def rare_classes(packed: Packed) -> list[str]:
    """The half of the split's classes with the fewest labelled pixels: the hard ones, by data alone."""
    counts = label_pixels(packed.labels)[: packed.num_classes]
    present = np.flatnonzero(counts)
    return [packed.classes[c] for c in present[np.argsort(counts[present], kind="stable")][: len(present) // 2]]


@once
def activation_ratio(run: Run) -> float:
    """Mean absolute head feature on pixels of the rarer half of the classes over that on the other pixels (FAKD Fig. 3)."""
    found = inside_outside(run.load_model(), seen(run), rare_classes(seen(run)))
    return float(found.set_index("class").loc["together", "ratio"])


@once
def divergence_ratio(run: Run) -> float:
    """Smallest TD/NTD over the classes: how far teacher and student differ on a class's own pixels against all others
    (HWD Table I)."""
    return float(divergence_ratios(run.load_model(), plain_teacher(run), seen(run))["ratio"].min())


@once
def feature_silhouette(run: Run) -> float:
    """Mean silhouette in [-1, 1] of head features by class, on a balanced sample of test pixels (HWD Fig. 5)."""
    return silhouette(*pixel_features(run.load_model(), seen(run)))


@once
def order_change(run: Run) -> float:
    """How much more HWD's class weights change their order from 10 % of the training to its end than between halves of the
    images: rank correlation between the halves at one time, less that between the halves at both times (HWD section IV)."""
    from scipy.stats import spearmanr

    halves = [np.stack([w[0::2].mean(0), w[1::2].mean(0)]) for w in (_weights(run, 10), _weights(run, 100))]
    rank = lambda a, b: float(spearmanr(a, b).statistic)  # noqa: E731
    (early, other_early), (late, other_late) = halves
    same_time = (rank(early, other_early) + rank(late, other_late)) / 2
    return same_time - (rank(early, other_late) + rank(other_early, late)) / 2


def _weights(run: Run, percent: int) -> np.ndarray:
    """HWD's weights (images, C) with the student of ``percent`` of the training, at the paper's settings."""
    student, teacher, found = run.load_model(percent=percent), plain_teacher(run), []
    for _, images, labels in batches(seen(run), device=next(student.parameters()).device):
        logits = student(images).logits
        found.append(holistic_weights(logits, resize_scores(teacher(images).logits, logits.shape[-2:]), labels))
    return torch.cat(found).cpu().numpy()


@once
def difficulty_gaps(run: Run) -> dict[str, float]:
    """Where the weights of RDD's first stage, the agreement of a network's two heads, are high (RDD Fig. 3): mean of rightly
    less wrongly predicted pixels (``right``), and of pixels away from boundaries less near ones (``inside``)."""
    model, packed = run.load_model(), seen(run)
    by_outcome = weights_by_outcome(model, packed)
    near, inside = near_boundaries(model, packed, split_bins(packed, (BAND,)), edges=(BAND,))["weight"]
    return {"right": by_outcome["right"] - by_outcome["wrong"], "inside": float(inside - near)}


@once
def xor_balance(run: Run, percent: int = 100) -> float:
    """Of the pixels that RDD's XOR picks: the share that only the student finds hard less the share that only the teacher
    does, in [-1, 1], with the student of ``percent`` of the training (RDD Fig. 1 and 4)."""
    found = training_cases({percent: run.load_model(percent=percent)}, plain_teacher(run), seen(run)).iloc[0]
    student, teacher = found["student alone"], found["teacher alone"]
    return float((student - teacher) / (student + teacher)) if student + teacher else math.nan

"""What RDD sees in pictures and numbers: confidence, hard pixels, the cases of teacher and student, the TFE weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from segkd.analysis.boundary import EDGES, bin_names
from segkd.analysis.features import evaluating, one
from segkd.analysis.figures.chart import runs_of, tell
from segkd.analysis.figures.pictures import colorize
from segkd.analysis.figures.style import styled, subplots
from segkd.losses.rdd import confidence, difficulty_mask, hard_pixels, teacher_difficulty
from segkd.prediction import IGNORE, Prediction, resize_scores
from segkd.registry import UserError
from segkd.train.evaluate import batches

CASES = {  # hard for (student, teacher): RDD Fig. 1b, its disagreement told apart by who finds the pixel hard
    "both easy": (217, 217, 217),
    "student alone": (230, 159, 0),
    "teacher alone": (0, 114, 178),
    "both hard": (60, 60, 60),
}


def cases(student_hard, teacher_hard):
    """The case of each pixel as its place in ``CASES``; bool arrays or tensors of one shape."""
    return student_hard * 1 + teacher_hard * 2


def _sure(model: nn.Module, prediction: Prediction, labels: Tensor) -> Tensor:
    return confidence(prediction.logits, labels, align_corners=model.align_corners)


def _weights(model: nn.Module, prediction: Prediction, size: tuple[int, int]) -> Tensor:
    """TFE weights at label size: the exponential first, then the upsampling; NaN without a second head."""
    if prediction.aux_logits is None:
        return torch.full((len(prediction.logits), *size), float("nan"))
    easy = teacher_difficulty(prediction.logits, prediction.aux_logits)
    return resize_scores(easy[:, None], size, model.align_corners)[:, 0].cpu()


def training_cases(students: Mapping[int, nn.Module], teacher: nn.Module, packed) -> pd.DataFrame:
    """Shares of the cases among labelled pixels at points of a training: percent, one column per case, sum to 1.

    ``students``: {percent of the steps done: network}. A pixel is hard where the largest probability is at most
    0.7 (RDD Eq. 9, section 4.2).
    """
    counts = {percent: np.zeros(len(CASES)) for percent in students}
    with evaluating(teacher) as device:
        for _, images, labels in batches(packed):
            images, valid = images.to(device), labels != IGNORE
            hard = hard_pixels(_sure(teacher, teacher(images), labels.to(device)))
            for percent, student in students.items():
                with evaluating(student):
                    own = hard_pixels(_sure(student, student(images), labels.to(device)))
                found = cases(own, hard).cpu()[valid]
                counts[percent] += torch.bincount(found, minlength=len(CASES)).numpy()
    rows = [{"percent": percent, **dict(zip(CASES, n / max(n.sum(), 1)))} for percent, n in sorted(counts.items())]
    return pd.DataFrame(rows, columns=["percent", *CASES])


def near_boundaries(model: nn.Module, packed, bins: Sequence[Tensor], edges: tuple[int, ...] = EDGES) -> pd.DataFrame:
    """Means by distance to the nearest pixel of another class: distance, pixels, wrong, hard, weight.

    ``bins``: ``boundary.split_bins(packed, edges)``. ``wrong``: share of pixels predicted wrong; ``hard``: share with a
    confidence of at most 0.7; ``weight``: mean TFE weight exp(-KL) between the network's two heads, NaN if it
    has one.
    """
    sums = np.zeros((4, len(edges) + 1))
    for found, (_, wrong, hard, weight) in zip(bins, _pixels(model, packed), strict=True):
        valid, found = found >= 0, found.long()
        for row, values in zip(sums, (torch.ones_like(weight), wrong, hard, weight)):
            row += torch.bincount(found[valid], values[valid].double(), len(edges) + 1).numpy()
    with np.errstate(invalid="ignore"):
        means = dict(zip(("wrong", "hard", "weight"), sums[1:] / sums[0]))
    frame = pd.DataFrame({"distance": bin_names(edges), "pixels": sums[0].astype(int), **means})
    return frame[frame["pixels"] > 0].reset_index(drop=True)


def weights_by_outcome(model: nn.Module, packed) -> dict[str, float]:
    """Mean TFE weight on labelled pixels that the network's main head gets right and wrong (NaN where there are none)."""
    total = np.zeros((2, 2))
    for labels, wrong, _, weight in _pixels(model, packed):
        valid = labels != IGNORE
        total[0] += torch.bincount(wrong[valid].long(), weight[valid].double(), 2).numpy()
        total[1] += torch.bincount(wrong[valid].long(), minlength=2).numpy()
    with np.errstate(invalid="ignore"):
        return dict(zip(("right", "wrong"), (total[0] / total[1]).tolist()))


def _pixels(model: nn.Module, packed):
    """(labels, wrong, hard, TFE weight) of each batch, all (B, H, W) on the CPU."""
    with evaluating(model) as device:
        for _, images, labels in batches(packed):
            prediction, size = model(images.to(device)), tuple(labels.shape[-2:])
            guess = resize_scores(prediction.logits, size, model.align_corners).argmax(1).cpu()
            hard = hard_pixels(_sure(model, prediction, labels.to(device))).cpu()
            yield labels, guess != labels, hard, _weights(model, prediction, size)


@torch.no_grad()
def training_maps(students: Mapping[int, nn.Module], teacher: nn.Module, image, label, palette) -> dict[str, dict[str, np.ndarray]]:
    """Rows for ``pictures.map_sheet``: the student at points of its training, {percent: network} (RDD Fig. 1 and 4).

    ``image`` (H, W, 3) uint8, ``label`` (H, W). Each row: the student's prediction and confidence, the cases against the
    finished teacher in the colours of ``CASES``, and the masks that XOR, OR and AND keep.
    """
    found, batch = {}, one(image, label)
    hard = hard_pixels(_sure(teacher, _said(teacher, batch[0]), batch[1]))[0]
    for percent, student in sorted(students.items()):
        prediction = _said(student, batch[0])
        sure = _sure(student, prediction, batch[1])[0]
        own = hard_pixels(sure)
        row = {"prediction": _coloured(student, prediction, batch[1], palette), "confidence": sure.numpy()}
        row["cases"] = np.array(list(CASES.values()), np.uint8)[cases(own, hard).numpy()]
        masks = {mode.upper(): difficulty_mask(own, hard, mode).numpy() for mode in ("xor", "or", "and")}
        found[f"{percent} %"] = row | masks
    return found


@torch.no_grad()
def teacher_maps(teacher: nn.Module, image, label, palette) -> dict[str, np.ndarray]:
    """One row for ``pictures.map_sheet``: what the teacher's two heads say, their KL and the weights (RDD Fig. 3).

    UserError: a teacher without an auxiliary head.
    """
    images, labels = one(image, label)
    prediction = _said(teacher, images)
    if prediction.aux_logits is None:
        raise UserError("teacher_maps: this teacher has no auxiliary head; RDD's first stage compares two heads")
    aux = Prediction(prediction.aux_logits)
    easy = teacher_difficulty(prediction.logits, prediction.aux_logits)
    up = lambda maps: resize_scores(maps[:, None], tuple(labels.shape[-2:]), teacher.align_corners)[0, 0].numpy()  # noqa: E731
    sure = _sure(teacher, prediction, labels)[0]
    return {
        "image": np.asarray(image), "label": colorize(label, palette),
        "main head": _coloured(teacher, prediction, labels, palette),
        "auxiliary head": _coloured(teacher, aux, labels, palette), "KL(main, aux)": up(-easy.clamp_min(1e-12).log()),
        "weight exp(-KL)": up(easy), "confidence": sure.numpy(), "hard": hard_pixels(sure).numpy(),
    }  # fmt: skip


def _said(model: nn.Module, images: Tensor) -> Prediction:
    """A prediction on the model's device, brought to the CPU."""
    return model(images.to(next(model.parameters()).device)).cpu()


def _coloured(model: nn.Module, prediction: Prediction, labels: Tensor, palette) -> np.ndarray:
    scores = resize_scores(prediction.logits, tuple(labels.shape[-2:]), model.align_corners)
    return colorize(scores.argmax(1)[0].numpy(), palette)


@styled
def cases_figure(df: pd.DataFrame):
    """Shares of the cases over the training of the student, mean over seeds (RDD Fig. 1b). ``df``: as `training_cases`."""
    mean = df.groupby("percent")[list(CASES)].mean() * 100
    figure, axes = subplots(figsize=(6.6, 3.4))
    tint = {name: np.array(rgb) / 255 for name, rgb in CASES.items()}
    if len(mean) > 1:
        axes.stackplot(mean.index, mean.T, labels=list(CASES), colors=list(tint.values()))
        axes.set(xlabel="steps done (%)", xlim=(mean.index.min(), mean.index.max()))
    else:  # the end alone: bars, since an area would have no width
        left = mean.T.cumsum().iloc[:, 0] - mean.T.iloc[:, 0]
        for name in CASES:
            axes.bar(0, mean[name], 0.5, bottom=left[name], color=tint[name], label=name)
        axes.set_xticks([0], [f"{mean.index[0]} % of the steps"])
        axes.set_xlim(-1, 1)
    axes.set(ylabel="share of pixels (%)", ylim=(0, 100))
    axes.legend(title="hard for", loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    shares = {at: ", ".join(f"{name} {value:.1f} %" for name, value in line.items()) for at, line in mean.iterrows()}
    half = 4 if len(mean) > 1 else 0.25
    marks = [(axes, place - half, place + half, 0, 100, f"after {at} % of the steps: {text}{runs_of(df, 'RDD')}") for place, (at, text) in zip(mean.index if len(mean) > 1 else [0], shares.items())]
    return tell(figure, "Shares of pixels by who finds them hard, over the training", f"After {mean.index[-1]} % of the steps: {shares[mean.index[-1]]}.", marks)

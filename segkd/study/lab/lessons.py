"""Worked examples of the paper notebooks: one formula on a few numbers, or on one image and a trained network.

Where a row that an example needs has no finished run, the result is an empty frame, which figures show as a note.
"""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from segkd.analysis import variants
from segkd.analysis.channels import divergence_ratios
from segkd.analysis.figures.pictures import colorize
from segkd.config import ROOT
from segkd.data.augment import to_batch
from segkd.losses.fakd import ClassStatistics, augmented_channelwise, variance_table
from segkd.losses.hwd import channel_divergence, class_counts, holistic_weights, standardise
from segkd.losses.method import create_method
from segkd.losses.rdd import MODES, confidence, difficulty_mask, hard_pixels
from segkd.prediction import IGNORE, Prediction, labels_to_grid, resize_scores
from segkd.registry import UserError
from segkd.runs import teacher_kind
from segkd.study.lab import views
from segkd.study.numbers.statistics import half_width
from segkd.study.numbers.study import Study
from segkd.train.evaluate import batches, feed

if TYPE_CHECKING:
    from IPython.display import SVG, Markdown  # which training does not need

PLAIN, ASSISTED = views.TEACHER, "teacher (label-assisted)"
IMAGES = 8  # test images behind a share of pixels


def if_run(study: Study, rows: Sequence[str], make: Callable, *arguments):
    """``make(study, *arguments)`` where each of these rows of the main table has a finished run, else an empty frame."""
    return make(study, *arguments) if views.rows_with_runs(study, "main", rows) == list(rows) else pd.DataFrame()


def shown(frame: pd.DataFrame, digits: str = "{:.2f}", **columns: str | Callable) -> pd.io.formats.style.Styler:
    """A frame as a table without its index; ``columns``: formats of their own. An empty frame says that nothing is run."""
    if frame.empty:
        frame = pd.DataFrame({"": ["no finished run yet: see the command under the tables"]})
    formats = {name: digits for name in frame.select_dtypes("number") if frame[name].dtype.kind == "f"} | columns
    kept = {name: text for name, text in formats.items() if name in frame}
    return frame.style.hide(axis="index").format(kept, na_rep="–", escape="html").format_index(escape="html", axis="columns")


def code(*functions: Callable) -> Markdown:
    """The lines that compute an equation, as they stand in the package, to be read beside it."""
    from IPython.display import Markdown

    return Markdown("\n".join(f"```python\n{textwrap.dedent(inspect.getsource(one))}```\n" for one in functions))


def diagram(name: str) -> SVG:
    """The drawing of a method, notebooks/diagrams/``name``.svg."""
    from IPython.display import SVG

    return SVG(filename=str(ROOT / "notebooks" / "diagrams" / f"{name}.svg"))


@torch.no_grad()
def two_answers(study: Study, index: int = 0) -> list[dict]:
    """Rows of ``pictures.map_sheet``: what LAD's teacher sees and answers for one test image under two draws of noise.

    A row for each draw; the last map is KL(the other row's answer || this one) at each pixel, in nats.
    """
    run, test = views.first_run(study, "main", ASSISTED), study.packed(study.data.split)
    network, index = run.load_model(), min(index, len(test) - 1)
    kind = teacher_kind(run.config, network.info)
    images, labels = to_batch(*test.take([index])[:2])
    seen = [feed(images, labels, kind, run.config.seed, "lesson", draw) for draw in (1, 2)]
    device = next(network.parameters()).device
    logs = [resize_scores(network(x.to(device)).logits, labels.shape[-2:]).log_softmax(1)[0].cpu() for x in seen]
    return [
        {
            "image": test.images[index], "label channel": x[0, 3].numpy(), "answer": colorize(own.argmax(0).numpy(), test.palette),
            "KL from the other answer": (other.exp() * (other - own)).sum(0).numpy(),
        }
        for x, own, other in zip(seen, logs, logs[::-1])
    ]  # fmt: skip


def bound_by_sampling(strengths: Sequence[float], draws: int = 2000) -> pd.DataFrame:
    """FAKD's theorem in numbers: CWD without noise, its mean over sampled feature noise, and the closed form above it.

    One image of random features, 3 classes on a 6 x 6 grid; all values in cross-entropy form.
    """
    random = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)  # noqa: E731
    feature, weight, teacher = 2 * normal(1, 4, 6, 6), normal(3, 4), 4 * normal(1, 3, 6, 6)
    labels = torch.randint(3, (1, 6, 6), generator=random)
    statistics = ClassStatistics(3, 4)
    statistics.update(feature, labels)
    loss = lambda x, lam: augmented_channelwise(  # noqa: E731
        x, (weight, torch.zeros(3).double()), teacher.expand(len(x), -1, -1, -1), labels.expand(len(x), -1, -1), statistics, lam
    ).item()
    spread = statistics.covariance[labels[0]].sqrt().permute(2, 0, 1)
    noise = normal(draws, 4, 6, 6) * spread
    return pd.DataFrame([
        {"λ": lam, "CWD": loss(feature, 0.0), f"mean of {draws} noisy CWD": loss(feature + math.sqrt(lam) * noise, 0.0),
         "closed form (bound)": loss(feature, lam)}
        for lam in strengths
    ])  # fmt: skip


@torch.no_grad()
def class_spread(study: Study) -> pd.DataFrame:
    """How wide each class lies in the features of the student of CWD: columns class and spread, the deviation of its own score.

    sqrt(w_c' Sigma_c w_c) in logits, over a few training images (FAKD's quantity at lambda = 1).
    """
    network, train = views.model(study, "main", "CWD"), study.packed("train")
    device, statistics = next(network.parameters()).device, None
    for _, images, labels in batches(train.first(2 * IMAGES), device=device):
        found = network(images)
        if found.feature is None or found.classifier is None:
            raise UserError("class_spread: the network of row 'CWD' shows no feature before its classifier; choose another")
        statistics = statistics or ClassStatistics(train.num_classes, found.feature.shape[1]).to(device)
        statistics.update(found.feature, labels)
    own = variance_table(found.classifier[0], statistics)[:-1].diagonal().sqrt()
    seen = statistics.count > 1
    names = np.asarray(train.classes)[seen.cpu().numpy()]
    return pd.DataFrame({"class": names, "spread": own[seen].cpu().numpy()})


def _pairs(study: Study, student: str, indices: Iterable[int]) -> list[tuple[Prediction, Prediction, Tensor]]:
    """Student's and plain teacher's predictions on each of these test images, and the label (1, H, W)."""
    test = study.packed(study.data.split)
    chosen = [index for index in indices if index < len(test)]
    runs = (views.first_run(study, "main", row) for row in (student, PLAIN))
    labels = [torch.from_numpy(test.labels[index].copy()).long()[None] for index in chosen]
    return list(zip(*(views.predict_images(run, test, chosen) for run in runs), labels))


def weight_steps(study: Study, index: int = 0, student: str = "CWD") -> pd.DataFrame:
    """HWD's weights of one test image step by step, the heaviest channel first; pixels are counted on the score grid."""
    ((ours, teacher, labels),) = _pairs(study, student, [index])
    hyper = create_method("hwd").hyper()["hwd"]
    grid = labels_to_grid(labels, ours.logits.shape[-2:])
    pixels = class_counts(grid, ours.logits.shape[1])[0]
    apart = channel_divergence(ours.logits, teacher.logits, hyper["temperature"], hyper["divergence"], hyper["on_logits"])
    corrected = apart / (pixels + 1)
    weights = holistic_weights(ours.logits, teacher.logits, labels)[0]
    frame = pd.DataFrame({
        "class": study.packed(study.data.split).classes, "N (pixels)": pixels.numpy(), "CD": apart[0].numpy(),
        "CD / (N + 1)": corrected[0].numpy(), "standardised g": standardise(corrected)[0].numpy(), "weight": weights.numpy(),
    })  # fmt: skip
    return frame.sort_values("weight", ascending=False, ignore_index=True)


def weight_settings(study: Study, settings: Mapping[str, Mapping], index: int = 0, student: str = "CWD") -> pd.DataFrame:
    """HWD's weights of one test image under several settings of ``holistic_weights``: a column each, by name."""
    ((ours, teacher, labels),) = _pairs(study, student, [index])
    found = {name: holistic_weights(ours.logits, teacher.logits, labels, **given)[0] for name, given in settings.items()}
    frame = pd.DataFrame({name: weights.numpy() for name, weights in found.items()})
    frame.insert(0, "class", study.packed(study.data.split).classes)
    return frame.sort_values(frame.columns[1], ascending=False, ignore_index=True)


def td_over_ntd(study: Study, student: str = "CWD") -> pd.DataFrame:
    """TD, NTD and their ratio for each class over a few test images (HWD Table I); columns as `channels.divergence_ratios`."""
    networks = [views.model(study, "main", row) for row in (student, PLAIN)]
    return divergence_ratios(*networks, views.sample(study, 4 * IMAGES))


def difficulty_cases(study: Study, student: str = "RDD", threshold: float = 0.7) -> pd.DataFrame:
    """RDD's four cases on a few test images: share of the labelled pixels, how often each network errs, who keeps them.

    Shares and errors in percent.
    """
    lines, found = [], []
    for *networks, labels in _pairs(study, student, range(IMAGES)):
        hard = [hard_pixels(confidence(x.logits, labels), threshold) for x in networks]
        wrong = [resize_scores(x.logits, labels.shape[-2:]).argmax(1) != labels for x in networks]
        found.append(torch.stack([*hard, *wrong])[:, labels != IGNORE])
    hard, wrong = torch.cat(found, 1).unflatten(0, (2, 2))
    for student_hard, teacher_hard in ((False, False), (True, False), (False, True), (True, True)):
        here = (hard[0] == student_hard) & (hard[1] == teacher_hard)
        kept = [mode.upper() for mode in MODES if difficulty_mask(*map(torch.tensor, (student_hard, teacher_hard)), mode)]
        lines.append({
            "student": "hard" if student_hard else "easy", "teacher": "hard" if teacher_hard else "easy",
            "share %": 100 * here.double().mean().item(), "student wrong %": 100 * wrong[0][here].double().mean().item(),
            "teacher wrong %": 100 * wrong[1][here].double().mean().item(), "kept by": ", ".join(kept) or "none",
        })  # fmt: skip
    return pd.DataFrame(lines)


def differences(study: Study, methods: Sequence[str]) -> pd.io.formats.style.Styler:
    """Paper against code, a line a switch; with what it does to loss and gradient where the networks are trained."""
    needed = ["baseline", PLAIN, *([ASSISTED] if "lad" in methods else [])]
    measured = if_run(study, needed, _effects, methods)
    if not measured.empty:
        return variants.variants_table(measured).set_properties(subset=["source"], **{"min-width": "16rem"})
    switches = [d for d in variants.switches(methods) if d.source]
    return shown(pd.DataFrame({
        "switch": [f"{d.part}: {d.what.replace('_', ' ')}" for d in switches],
        "other": [str(d.changed[d.what]) for d in switches], "source": [d.source for d in switches],
    }))  # fmt: skip


def _effects(study: Study, methods: Sequence[str]) -> pd.DataFrame:
    assisted = ASSISTED if "lad" in methods else PLAIN  # no other method looks at it
    networks = [views.model(study, "main", row) for row in ("baseline", PLAIN, assisted)]
    return variants.variant_effects(variants.Witnesses(*networks, study.packed("train")), methods)


def paired_by_seed(study: Study, row: str) -> pd.DataFrame:
    """mIoU of a row and of the baseline on the seeds that have both, and their difference, in points."""
    scores = views.scores_by_seed(study, "main")
    if not {row, "baseline"} <= set(scores):
        return pd.DataFrame()
    found = scores[["baseline", row]].dropna().reset_index().rename_axis(columns=None)
    return found.assign(difference=found[row] - found["baseline"])


def seeds_needed(study: Study, effect: float = 1.0) -> pd.DataFrame:
    """How many seeds would show an ``effect`` (points of mIoU): the least n with a t half width below it.

    From the deviation of the paired differences to the baseline; rows with fewer than two seeds are left out.
    """
    scores = views.scores_by_seed(study, "main")
    lines = []
    for row in scores.columns.drop("baseline") if "baseline" in scores else ():
        gap = (scores[row] - scores["baseline"]).dropna()
        if len(gap) > 1:
            sd = float(gap.std(ddof=1))
            lines.append({
                "row": row, "seeds": len(gap), "sd of the paired difference": sd,
                "half width now": half_width(sd, len(gap)), f"seeds for ± {effect:g}": least_seeds(sd, effect),
            })  # fmt: skip
    return pd.DataFrame(lines)


def least_seeds(sd: float, effect: float, most: int = 1000) -> int:
    """The fewest seeds (2 or more) whose half width is at most ``effect``; ``most`` if that is not enough."""
    return next((n for n in range(2, most) if half_width(sd, n) <= effect), most)

"""What the pages show of a study: frames and pictures' inputs, one function a figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from segkd.data.augment import to_batch
from segkd.losses.lad import LabelNoise
from segkd.losses.method import create_method
from segkd.losses.rdd import difficulty_mask, hard_pixels, teacher_difficulty
from segkd.prediction import Prediction, resize_scores
from segkd.registry import UserError, unknown
from segkd.runs import Run, teacher_kind
from segkd.study.study import Study
from segkd.train.evaluate import feed

TEACHER = "teacher (plain, larger)"


def first_run(study: Study, table: str, row: str) -> Run:
    """The row's finished run of the lowest seed; UserError that says how to get it if there is none."""
    found = study.runs(table, row)
    if not found:
        raise UserError(f"no finished run for row '{row}' of table '{table}' of {study.paper}: train it with study.run()")
    return found[0]


def present(study: Study, table: str, rows: Sequence[str]) -> list[str]:
    """Those of the rows that this study holds: METHODS may have left some out."""
    held = [row.label for row in study.rows(table)]
    return [row for row in rows if row in held]


def model(study: Study, table: str, row: str) -> torch.nn.Module:
    """The trained network of a row's first run."""
    return first_run(study, table, row).load_model()


def over_seeds(study: Study, table: str, rows: Sequence[str], measure: Callable[[torch.nn.Module], float]) -> pd.DataFrame:
    """``measure(network)`` for every finished run of the rows: one line a row, one column a seed, and the mean."""
    found = {
        row: {f"seed {r.config.seed}": measure(r.load_model()) for r in study.runs(table, row)} for row in rows
    }
    frame = pd.DataFrame.from_dict(found, orient="index")
    return frame.assign(mean=frame.mean(axis=1)).round(3)


def reference(study: Study, table: str, row: str) -> dict[str, list[float]]:
    """The mIoU of a row's runs, as the dashed line of a sweep."""
    scores = study.scores(table)
    return {row: scores.loc[scores["row"] == row, "miou"].tolist()}


def grid(study: Study, table: str) -> pd.DataFrame:
    """Mean mIoU of teacher and student at each place of a two-axis ablation (LAD Table 9)."""
    axes = list(study.all_tables[table].axes)
    scores = study.scores(table)
    kind = scores["role"].map({"label_teacher": "teacher", "student": "student"})
    means = scores.assign(kind=kind).groupby([*axes, "kind"], sort=False)["miou"].mean()
    return means.unstack("kind").reset_index().sort_values(axes)


def class_shares(study: Study) -> pd.DataFrame:
    """Each class's share of the training pixels in percent."""
    train = study.packed("train")
    return pd.DataFrame({"class": train.classes, "share": 100 * np.asarray(train.class_shares())})


def image_with(study: Study, target: int) -> int:
    """Index of the image with the most pixels of a class, on the declared split."""
    labels = study.packed(study.data.split).labels
    return int((labels == target).reshape(len(labels), -1).sum(1).argmax())


def target_class(study: Study, name: str = "") -> int:
    """Index of a class by name, capitals aside; without a name "car", or the most frequent class where there is none.

    UserError with the nearest name.
    """
    train = study.packed("train")
    names = {label.lower(): index for index, label in enumerate(train.classes)}
    if not name:
        return names.get("car", int(train.class_shares().argmax()))
    if name.lower() not in names:
        raise unknown(f"class of {study.dataset}:", name, train.classes)
    return names[name.lower()]


def label_noise(study: Study, table: str, row: str) -> LabelNoise:
    """The label noise that a label-assisted teacher is fed when it teaches or is evaluated."""
    run = first_run(study, table, row)
    return teacher_kind(run.config, run.load_model().info).teaching_noise


def label_noise_parts(study: Study, index: int, seed: int = 0) -> tuple:
    """Arguments of ``pictures.label_noise_sheet`` for a training image: class-wise noise, pixel noise, their sum."""
    train = study.packed("train")
    label = train.labels[index]
    maps = torch.from_numpy(label.copy()).long()[None]
    draw = lambda alpha: LabelNoise(train.num_classes, alpha)(maps, torch.Generator().manual_seed(seed))[0, 0].numpy()  # noqa: E731
    classwise, both = draw(0.0), draw(create_method("lad").hyper()["lad"]["alpha"])
    parts = {"class-wise noise": classwise, "pixel noise": both - classwise, "what the teacher sees": both}
    return label, train.palette, parts, train.classes


@torch.no_grad()
def predict(run: Run, images: np.ndarray, labels: np.ndarray) -> Prediction:
    """A finished run's prediction on uint8 images; a label-assisted teacher is fed the noised label."""
    network = run.load_model()
    kind = teacher_kind(run.config, network.info) if run.result["label_input"] else None
    batch = to_batch(torch.from_numpy(images.copy()), torch.from_numpy(labels.copy()))
    return network(feed(*batch, kind, run.config.seed, "picture"))


def predictions(study: Study, table: str, rows: Sequence[str], indices: Sequence[int]) -> tuple:
    """Arguments of ``pictures.prediction_sheet``: test images, labels, and each row's label map."""
    test = study.packed(study.data.split)
    chosen = [index for index in indices if index < len(test)] or [0]
    images, labels = test.images[chosen], test.labels[chosen]
    found = {}
    for row in rows:
        logits = predict(first_run(study, table, row), images, labels).logits
        found[row] = resize_scores(logits, labels.shape[1:]).argmax(1).numpy()
    return images, labels, found, test.palette, test.classes


def difficulty_maps(study: Study, indices: Sequence[int]) -> list[dict]:
    """Rows of ``pictures.map_sheet``: RDD's two stages on test images, with the finished RDD student (RDD Fig. 3, 4)."""
    test = study.packed(study.data.split)
    chosen = [index for index in indices if index < len(test)] or [0]
    images, labels = test.images[chosen], test.labels[chosen]
    student = predict(first_run(study, "main", "RDD"), images, labels)
    teacher = predict(first_run(study, "main", TEACHER), images, labels)
    size = labels.shape[1:]
    trust = resize_scores(teacher_difficulty(teacher.logits, teacher.aux_logits)[:, None], size)[:, 0]
    sure = {n: resize_scores(p.logits, size).softmax(1).amax(1) for n, p in (("student", student), ("teacher", teacher))}
    hard = {name: hard_pixels(value) for name, value in sure.items()}
    modes = {mode: difficulty_mask(hard["student"], hard["teacher"], mode) for mode in ("xor", "or", "and")}
    return [
        {
            "image": image, "TFE weight": trust[i].numpy(), "teacher: hard": hard["teacher"][i].numpy(),
            "student: hard": hard["student"][i].numpy(), **{m.upper(): mask[i].numpy() for m, mask in modes.items()},
        }
        for i, image in enumerate(images)
    ]  # fmt: skip


def hard_easy(frame: pd.DataFrame, baseline: str = "baseline") -> pd.DataFrame:
    """Mean gain in points over the baseline in its harder and its easier half of the classes (FAKD Fig. 2)."""
    from segkd.analysis.plots import class_order, gains

    order = class_order(frame, "difficulty", baseline)
    hard = set(order[: len(order) // 2])
    gain = gains(frame, baseline)
    half = gain["class"].isin(hard).map({True: "hard half", False: "easy half"})
    table = gain.assign(half=half).groupby(["method", "half"], sort=False)["gain"].mean().unstack("half")
    return table[["hard half", "easy half"]].drop(index=TEACHER, errors="ignore").round(2)


def hard_easy_headline(table: pd.DataFrame) -> dict[str, str]:
    """The two halves of each method as text."""
    return {row: f"hard {line['hard half']:+.1f}, easy {line['easy half']:+.1f}" for row, line in table.iterrows()}

"""What the pages show of a study: frames and pictures' inputs, one function a figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from segkd.analysis.figures.look import Slider, slider_frame
from segkd.analysis.figures.plots import from_hard, gains
from segkd.config import RunConfig
from segkd.data.augment import to_batch
from segkd.data.store import Packed
from segkd.losses.lad import LabelNoise
from segkd.losses.method import TeacherKind, create_method
from segkd.losses.rdd import difficulty_mask, hard_pixels, teacher_difficulty
from segkd.prediction import Prediction, resize_scores
from segkd.registry import UserError, unknown
from segkd.runs import Run, find, split_of, teacher_kind
from segkd.study.numbers.results import paired
from segkd.study.numbers.statistics import points
from segkd.study.numbers.study import Study
from segkd.train.evaluate import feed
from segkd.train.loop import SNAPSHOTS
from segkd.train.runtime import like

TEACHER = "teacher (plain, larger)"


def first_run(study: Study, table: str, row: str) -> Run:
    """The row's finished run of the lowest seed; UserError that says how to get it if there is none."""
    found = study.runs(table, row)
    if not found:
        raise UserError(f"no finished run for row '{row}' of table '{table}' of {study.paper}: train it with study.run()")
    return found[0]


def rows_with_runs(study: Study, table: str, rows: Sequence[str]) -> list[str]:
    """Those of the rows that have a finished run; METHODS or TABLES may have left some out."""
    held = {row.label for row in study.rows(table)}
    return [row for row in rows if row in held and study.runs(table, row)]


def present(study: Study, table: str, rows: Sequence[str]) -> list[str]:
    """`rows_with_runs` of the rows; says which are not."""
    done = rows_with_runs(study, table, rows)
    if missing := [row for row in rows if row not in done]:
        print(f"not run, so not shown here: {', '.join(missing)} (table '{table}' of {study.paper})")
    return done


def sample(study: Study, count: int = 100) -> Packed:
    """At most ``count`` images of the declared split, evenly spaced, as the study has them.

    What a page measures by running networks, it measures on these.
    """
    data = study.data
    limit = min(count, data.eval_limit or count)
    return split_of(RunConfig(replace(data, eval_limit=limit)), data.split)


def each_run(study: Study, table: str, rows: Sequence[str], measure: Callable[[Run], pd.DataFrame]) -> pd.DataFrame:
    """``measure(run)`` of every finished run of the rows, one below the other, with the columns method and seed in front."""
    parts = [
        measure(run).assign(method=row, seed=run.config.seed) for row in rows for run in study.runs(table, row)
    ]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["method", "seed"])
    frame.attrs["runs"] = {row: [run.id for run in study.runs(table, row)] for row in rows}
    return frame[["method", "seed", *(c for c in frame if c not in ("method", "seed"))]]


def as_line(values: dict) -> pd.DataFrame:
    """One measurement of `each_run`, {column: value}, as a frame of one line."""
    return pd.DataFrame([values])


def joined(frames: Sequence[pd.DataFrame], keys: Sequence[str] = ("method", "seed")) -> pd.DataFrame:
    """Frames from several tables, which may share rows: each method and seed (and what else ``keys`` name) once."""
    return pd.concat(frames, ignore_index=True).drop_duplicates(list(keys), ignore_index=True)


def by_seed(frame: pd.DataFrame, value: str, digits: int = 2, across: str = "seed") -> pd.io.formats.style.Styler:
    """One line a method, one column a seed (or a class: ``across``), and the mean: a column of `each_run`."""
    if frame.empty:
        return frame.style
    table = frame.pivot_table(index="method", columns=across, values=value, sort=False)
    table = table.add_prefix("seed ") if across == "seed" else table
    table = table.assign(mean=table.mean(axis=1)).rename_axis(index=None, columns=None)
    return table.style.format(f"{{:.{digits}f}}", na_rep="–")


def snapshots(run: Run) -> dict[int, torch.nn.Module]:
    """The run's network after 10, 25, 50 and 100 % of its steps; says so where only the last was kept."""
    found = {}
    for percent in SNAPSHOTS:
        with suppress(UserError):
            found[percent] = run.load_model(percent=percent)
    if not found:
        print(f"{run.id} kept no network on its way, so only its end is shown: train it again to see its course")
    return found | {100: run.load_model()}


def teacher_of(run: Run) -> torch.nn.Module:
    """The network that taught a run."""
    return find(run.config.teacher).load_model()


def label_maps_by_row(
    study: Study, table: str, rows: Sequence[str], packed: Packed, indices: Sequence[int]
) -> dict[str, list[np.ndarray]]:
    """Predicted classes (H, W) of each row's first run on some images of ``packed``."""
    runs = {row: first_run(study, table, row) for row in rows}
    return {row: [label_map(p, packed.labels[i]) for p, i in zip(predict_images(run, packed, indices), indices)] for row, run in runs.items()}


def label_map(prediction: Prediction, label: np.ndarray) -> np.ndarray:
    """Predicted classes of one image at the size of its label (H, W)."""
    return resize_scores(prediction.logits, label.shape).argmax(1)[0].numpy()


def model(study: Study, table: str, row: str) -> torch.nn.Module:
    """The trained network of a row's first run."""
    return first_run(study, table, row).load_model()


def scores_by_seed(study: Study, table: str) -> pd.DataFrame:
    """mIoU in percent of a table's finished runs: a line a seed, a column a row; NaN where a row lacks a seed."""
    return 100 * study.scores(table).pivot_table(index="seed", columns="row", values="miou", sort=False).astype(float)


def gains_by_setting(study: Study, table: str, row: str) -> pd.DataFrame:
    """Each setting of a sweep less the row ``row``, paired by seed: its place on the table's axis, n, mean, low, high (points).

    ``paper``: the same of the numbers that the paper prints, NaN where it prints none; ``runs``: the setting's ids.
    """
    miou, found, (axis, *_) = scores_by_seed(study, table), study.all_tables[table], study.all_tables[table].axes
    summary = study.summary(table, row).set_index("row")
    printed = summary["paper gain"].fillna(summary["paper gain (computed)"])
    nothing = pd.Series(dtype=float)
    lines = [
        {axis: one.level[axis], **vars(paired(miou.get(one.label, nothing), miou.get(row, nothing))), "paper": printed[one.label]}
        | {"runs": ", ".join(run.id for run in study.runs(table, one.label))}
        for one in found.rows if axis in one.level and one.label != row
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=[axis, "n", "mean", "low", "high", "paper", "runs"])


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
    return pd.DataFrame({"class": train.classes, "share": 100 * np.asarray(train.class_frequencies())})


def image_with(packed: Packed, target: int) -> int:
    """Index of the image with the most pixels of a class."""
    return int(np.argmax([(label == target).sum() for label in packed.labels]))


def target_class(study: Study, name: str = "") -> int:
    """Index of a class by name, capitals aside; without a name "car", or the most frequent class where there is none.

    UserError with the nearest name.
    """
    train = study.packed("train")
    names = {label.lower(): index for index, label in enumerate(train.classes)}
    if not name:
        return names.get("car", int(train.class_frequencies().argmax()))
    if name.lower() not in names:
        raise unknown(f"class of {study.dataset}:", name, train.classes)
    return names[name.lower()]


def noise_of(run: Run) -> LabelNoise:
    """The label noise that a label-assisted teacher is fed when it teaches or is evaluated."""
    return teacher_kind(run.config, run.load_model().info).teaching_noise


def label_teachers(study: Study, table: str) -> pd.DataFrame:
    """The label-assisted teachers of a table that have a run: row, and its place on the table's axes."""
    rows = [row for row in study.rows(table) if row.role == "label_teacher"]
    done = present(study, table, [row.label for row in rows])
    lines = [{"row": row.label, **row.level} for row in rows if row.label in done]
    return pd.DataFrame(lines, columns=["row", *study.all_tables[table].axes])


def label_noise_parts(study: Study, index: int, seed: int = 0) -> tuple:
    """Arguments of ``pictures.label_noise_sheet`` for a training image: class-wise noise, pixel noise, their sum.

    Of fewer images it is the last.
    """
    train = study.packed("train")
    label = train.labels[min(index, len(train) - 1)]
    maps = torch.from_numpy(label.copy()).long()[None]
    draw = lambda alpha: LabelNoise(train.num_classes, alpha)(maps, torch.Generator().manual_seed(seed))[0, 0].numpy()  # noqa: E731
    classwise, both = draw(0.0), draw(create_method("lad").hyper()["lad"]["alpha"])
    parts = {"class-wise noise": classwise, "pixel noise": both - classwise, "what the teacher sees": both}
    return label, train.palette, parts, train.classes


def loaded(run: Run) -> tuple[torch.nn.Module, TeacherKind | None]:
    """A run's network, and how a label-assisted teacher is fed at evaluation; None: with the image alone."""
    network = run.load_model()
    return network, teacher_kind(run.config, network.info) if run.result["label_input"] else None


@torch.no_grad()
def predict_images(run: Run, packed: Packed, indices: Sequence[int]) -> list[Prediction]:
    """A finished run's prediction, on the CPU, on each of these images by itself; a label-assisted teacher is fed the noised label."""
    network, kind = loaded(run)
    device = next(network.parameters()).device
    with like(network):
        batches = (to_batch(*packed.take([i])[:2]) for i in indices)
        return [network(feed(*batch, kind, run.config.seed, "picture").to(device)).cpu() for batch in batches]


def answers(study: Study, packed: Packed, indices: Sequence[int]) -> Slider:
    """The answers to some images of ``packed`` of every row of the comparison: its first run whose network is here.

    UserError: no network is here.
    """
    said: dict[str, list[Prediction]] = {}
    for table in ("main", "rivals"):
        for row in study.rows(table) if table in study.tables else ():
            for run in study.runs(table, row.label):
                with suppress(UserError):
                    said[row.label] = said.get(row.label) or predict_images(run, packed, indices)
    if not said:
        raise UserError(f"no network of {study.profile.name} on {study.dataset} is here: train it with study.run()")
    frames = []
    for place, index in enumerate(indices):
        image, label = packed.images[index], packed.labels[index]
        logs = {row: resize_scores(found[place].logits, label.shape).log_softmax(1)[0] for row, found in said.items()}
        frames.append(slider_frame(image, label, logs, packed.num_classes))
    return Slider(packed.classes, [list(map(int, colour)) for colour in packed.palette], frames)


def predictions(study: Study, table: str, rows: Sequence[str], indices: Sequence[int]) -> tuple:
    """Arguments of ``pictures.prediction_sheet``: test images, labels, and each row's label map."""
    test = study.packed(study.data.split)
    chosen = [index for index in indices if index < len(test)] or [0]
    maps = label_maps_by_row(study, table, rows, test, chosen)
    return test.images[chosen], test.labels[chosen], maps, test.palette, test.classes


def difficulty_maps(study: Study, indices: Sequence[int]) -> list[dict]:
    """Rows of ``pictures.map_sheet``: RDD's two stages on test images, with the finished RDD student (RDD Fig. 3, 4)."""
    test = study.packed(study.data.split)
    chosen = [index for index in indices if index < len(test)] or [0]
    pairs = zip(*(predict_images(first_run(study, "main", row), test, chosen) for row in ("RDD", TEACHER)))
    return [_difficulty_maps(test.images[index], *pair) for index, pair in zip(chosen, pairs)]


def _difficulty_maps(image: np.ndarray, student: Prediction, teacher: Prediction) -> dict[str, np.ndarray]:
    at_size = lambda maps: resize_scores(maps, image.shape[:2])[0]  # noqa: E731
    trust = at_size(teacher_difficulty(teacher.logits, teacher.aux_logits)[:, None])[0]
    ours, theirs = (hard_pixels(at_size(found.logits).softmax(0).amax(0)) for found in (student, teacher))
    modes = {mode.upper(): difficulty_mask(ours, theirs, mode).numpy() for mode in ("xor", "or", "and")}
    return {"image": image, "TFE weight": trust.numpy(), "teacher: hard": theirs.numpy(), "student: hard": ours.numpy(), **modes}


def hard_easy(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean gain in points over the baseline in its harder and its easier half of the classes (FAKD Fig. 2)."""
    if frame.empty:
        return pd.DataFrame(columns=["hard half", "easy half"])
    order = from_hard(frame)
    hard = set(order[: len(order) // 2])
    gain = gains(frame)
    half = gain["class"].isin(hard).map({True: "hard half", False: "easy half"})
    table = gain.assign(half=half).groupby(["method", "half"], sort=False)["gain"].mean().unstack("half")
    return table[["hard half", "easy half"]].drop(index=TEACHER, errors="ignore").rename_axis(columns=None)


def hard_easy_headline(table: pd.DataFrame) -> dict[str, str]:
    """The two halves of each method as text."""
    return {row: f"hard {points(line['hard half'])}, easy {points(line['easy half'])}" for row, line in table.iterrows()}

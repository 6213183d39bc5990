"""Paper versus code: what each difference does to the value of a loss and to its gradient, on trained networks."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from segkd.analysis.figures.chart import tell
from segkd.analysis.figures.style import method_colour, styled, subplots
from segkd.data.augment import to_batch
from segkd.losses import METHODS, Context, TeacherKind, create_method, list_methods, task_loss
from segkd.train.runtime import derive, generator, like

# Readings that are neither the default nor the released code's: other papers' versions and what a text prints.
READINGS = {
    "kd": {"reduction": ("element_mean", "batch_sum")},
    "at": {"squared": (False,)},
    "dist": {"softmax": (False,)},
    "fakd_cwd": {"var_power": (1,), "covariance": ("full",)},
    "fakd_pd": {"covariance_of": ("teacher_class",), "covariance": ("full",)},
    "rdd": {"tfe_map": ("mean",)},
}
# Settings under which a difference can be seen: a feature term that is on, and memory banks that a few batches fill.
BASE = {"cwd": {"feature_weight": 50.0}, "cirkd": {"pixel_size": 256, "region_size": 32}}
STAGED = {"rdd": {"difficulty": "tfe", "tfe_map": "tfe"}}  # RDD's fields act in its second stage, these in its first
TEACHING = ("teaching_alpha", "teaching_codes", "gain", "void")  # LAD: what a finished teacher sees
WARM_UP = 8  # batches that a method with state sees first


@dataclass(frozen=True)
class Difference:
    """One switch: a part, the settings on both sides, and where it comes from."""

    part: str
    what: str
    base: dict[str, Any]
    changed: dict[str, Any]
    source: str = ""
    teaching: bool = False  # LAD: seen through the student's loss instead of the teacher's


@dataclass(frozen=True)
class Witnesses:
    """Trained networks and the batches they look at: student, plain teacher, label-assisted teacher."""

    student: nn.Module
    teacher: nn.Module
    label_teacher: nn.Module
    packed: Any
    batch_size: int = 4

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and labels (B, H, W) of the set, in order, again from the front at its end.

        H and W are the smallest of the batch: of larger images their upper left.
        """
        index = [(step * self.batch_size + i) % len(self.packed) for i in range(self.batch_size)]
        images, labels, sizes = self.packed.take(index)
        height, width = labels.shape[1:] if sizes is None else sizes.amin(0).tolist()
        return to_batch(images[:, :height, :width], labels[:, :height, :width])

    def batch_for(self, network: nn.Module, step: int) -> list[Tensor]:
        """`batch` on the device of a network."""
        return [part.to(next(network.parameters()).device) for part in self.batch(step)]


def switches(methods: Sequence[str] | None = None) -> Iterator[Difference]:
    """Every switch of the methods (None: all): one field at a time, then all of the released code's together."""
    for name in methods or list_methods():
        cls, official = METHODS.get(name), METHODS.get(name).official or {}
        notes, base = field_notes(cls.Hyper), BASE.get(name, {})
        others = [(key, value) for key, values in READINGS.get(name, {}).items() for value in values]
        for key, value in [*official.items(), *others]:
            start = base | ({"stage": STAGED[name].get(key, "tse")} if name in STAGED else {})
            teaching = issubclass(cls, TeacherKind) and key in TEACHING
            yield Difference(name, key, start, start | {key: value}, notes[key], teaching)
        if len(official) > 1 and not issubclass(cls, TeacherKind):
            for stage in ({"stage": "tfe"}, {"stage": "tse"}) if name in STAGED else ({},):
                yield Difference(name, "all of the code's", base | stage, base | stage | official)


def field_notes(hyper: type) -> dict[str, str]:
    """The comment behind each field of a class of hyper-parameters: where its value comes from."""
    lines = [line.strip() for line in inspect.getsource(hyper).splitlines()]
    found = {line.split(":")[0]: line.split("  # ", 1)[1] for line in lines if "  # " in line and ":" in line.split("#")[0]}
    return {f.name: found.get(f.name, "") for f in dataclasses.fields(hyper)}


def variant_effects(witnesses: Witnesses, methods: Sequence[str] | None = None) -> pd.DataFrame:
    """One line a difference of the methods (None: all): both settings, and loss and gradient of the second over the first.

    No ratio where the first is zero. ``gradient cosine``: 1 = the same direction in weight space, 0 = nothing in common.
    Networks in eval mode.
    """
    lines, plain = [], {}
    for difference in switches(methods):
        key = _name(difference), repr(difference.base)
        with like(witnesses.student):
            plain[key] = plain.get(key) or _measure(difference, difference.base, witnesses)
            (value, gradient), (other, turned) = plain[key], _measure(difference, difference.changed, witnesses)
        lines.append({
            "method": _name(difference), "difference": difference.what,
            "default": _shown(difference, create_method(difference.part, **difference.base)),
            "other": _shown(difference, create_method(difference.part, **difference.changed)),
            "loss ratio": other / value if value else math.nan, "gradient ratio": (turned.norm() / gradient.norm()).item(),
            "gradient cosine": torch.cosine_similarity(turned, gradient, dim=0).item(), "source": difference.source,
        })  # fmt: skip
    return pd.DataFrame(lines)


def _name(difference: Difference) -> str:
    stage = difference.base.get("stage")
    return difference.part + (f" ({stage})" if stage else " (teaching)" if difference.teaching else "")


def _words(text: str) -> str:
    """A field or its value as readers write it."""
    return {"None": "unset", "True": "yes", "False": "no"}.get(text, text).replace("_", " ")


def _shown(difference: Difference, method) -> str:
    value = method.hyper()[difference.part].get(difference.what, "")
    return f"{value:.{3 if abs(value) < 1 else 6}g}" if isinstance(value, float) else str(value)


def _measure(difference: Difference, setting: dict, witnesses: Witnesses) -> tuple[float, Tensor]:
    """Value of the loss, and its gradient with respect to all weights that it trains."""
    kind = issubclass(METHODS.get(difference.part), TeacherKind)
    if kind and not difference.teaching:
        network, loss = witnesses.label_teacher, _teacher_loss(difference.part, setting, witnesses)
    else:
        network, loss = witnesses.student, _student_loss(difference.part, setting, witnesses, kind)
    trained = [p for p in network.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
    return loss.item(), torch.cat([g.flatten() for g in gradient]).double()


def _teacher_loss(part: str, setting: dict, witnesses: Witnesses) -> Tensor:
    """What a label-assisted teacher is trained with."""
    network, (images, labels) = witnesses.label_teacher.eval(), witnesses.batch_for(witnesses.label_teacher, 0)
    kind = create_method(part, **setting).teacher_kind
    kind.build(network.info, None)
    prediction = network(kind.training_input(images, labels, generator(0, "variants")))
    return sum(kind.teacher_loss(prediction, labels, align_corners=network.align_corners).values())


def _student_loss(part: str, setting: dict, witnesses: Witnesses, label_assisted: bool) -> Tensor:
    """What a student is trained with (the task loss where a part weights it), after a few batches for its state."""
    student = witnesses.student.eval()
    teacher = (witnesses.label_teacher if label_assisted else witnesses.teacher).eval()
    spec = f"{part}+cwd" if label_assisted else part
    method = create_method(spec, **{part: setting})
    torch.manual_seed(derive(0, "variants"))
    modules = method.build(student.info, teacher.info).to(next(student.parameters()).device)
    for step in range(WARM_UP if modules.state_dict() else 0):
        with torch.no_grad():
            context = _context(step, method, student, teacher, witnesses)
            method.loss(context)
        method.learn(context)
        method.after_step(context)
    context = _context(WARM_UP, method, student, teacher, witnesses)
    weight = method.task_weight(context)
    parts = method.loss(context) if weight is None else task_loss(context.student, context.labels, weight=weight)
    return sum(parts.values())


def _context(step: int, method, student: nn.Module, teacher: nn.Module, witnesses: Witnesses) -> Context:
    """A step in the middle of a run, where every schedule is half way."""
    images, labels = witnesses.batch_for(student, step)
    draws, seen = generator(step, "variants"), images
    if method.teacher_kind is not None:
        seen = method.teacher_kind.teacher_input(images, labels, draws)
    with torch.no_grad():
        taught = teacher(seen)
    return Context(50, 100, images, labels, student(images), taught, draws, student.align_corners)


@styled
def variants_figure(effects: pd.DataFrame):
    """Length and direction of the gradient after each switch, one line a difference; ``effects`` as `variant_effects`."""
    names = zip(effects["method"], effects["difference"].map(_words), effects["other"].map(_words))
    labels = [f"{method}: {what} = {other}" if other else f"{method}: {what}" for method, what, other in names]
    rows, hues = range(len(effects)), [method_colour(name) for name in effects["method"]]
    figure, (left, right) = subplots(1, 2, figsize=(9, 1 + 0.24 * len(effects)), sharey=True)
    for axes, column, neutral in ((left, "gradient ratio", 1.0), (right, "gradient cosine", 1.0)):
        axes.axvline(neutral, color="#333333", lw=1)
        axes.hlines(rows, neutral, effects[column], color=hues, lw=1.5)
        axes.scatter(effects[column], rows, color=hues, s=28, zorder=3)
    left.set(xscale="log", xlabel="length of the gradient, changed / default", yticks=list(rows), yticklabels=labels)
    left.xaxis.set_major_formatter("{x:g}")
    left.xaxis.set_minor_formatter("")
    right.set(xlabel="cosine between both gradients", xlim=(min(-0.05, effects["gradient cosine"].min() - 0.05), 1.05))
    left.set_ylim(len(effects) - 0.4, -0.6)
    told = [f"{label}: length ×{ratio:.3g}, cosine {cosine:.3f}" for label, ratio, cosine in zip(labels, effects["gradient ratio"], effects["gradient cosine"])]
    marks = [(axes, *axes.get_xlim(), y - 0.4, y + 0.4, text) for axes in (left, right) for y, text in enumerate(told)]
    found = headline(effects)
    said = f"Of {found['differences switched one at a time']} switches {found['gradient turned (cosine below 0.9)']} turn the gradient (cosine below 0.9); most {found['turned most']}."
    return tell(figure, "Dots: what each switch does to length and direction of the gradient", said, marks)


def variants_table(effects: pd.DataFrame) -> pd.io.formats.style.Styler:
    """``effects`` ready to show, in few enough columns for a page."""
    joined = [f"{_words(a)} → {_words(b)}" if b else "" for a, b in zip(effects["default"], effects["other"])]
    shown = pd.DataFrame({
        "switch": effects["method"] + ": " + effects["difference"].map(_words), "default → other": joined,
        "loss ×": effects["loss ratio"], "gradient ×": effects["gradient ratio"], "cosine": effects["gradient cosine"],
        "source": effects["source"],
    })  # fmt: skip
    formats = {"loss ×": "{:.2f}", "gradient ×": "{:.2f}", "cosine": "{:+.2f}"}
    return shown.style.hide(axis="index").format(formats, na_rep="–", escape="html")


def headline(effects: pd.DataFrame) -> dict[str, str]:
    """How many differences there are, how many matter, and the one that turns the gradient most."""
    single = effects[effects["other"] != ""]
    long = (single["gradient ratio"] > 1.5) | (single["gradient ratio"] < 1 / 1.5)
    turned = single["gradient cosine"] < 0.9
    most = single.loc[single["gradient cosine"].idxmin()]
    return {
        "differences switched one at a time": str(len(single)),
        "gradient longer or shorter by half": str(int(long.sum())),
        "gradient turned (cosine below 0.9)": str(int(turned.sum())),
        "turned most": f"{most['method']}: {_words(most['difference'])} = {_words(most['other'])} (cosine {most['gradient cosine']:+.2f})",
    }

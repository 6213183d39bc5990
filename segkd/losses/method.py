"""What a method is: three kinds of part (term, task weighting, teacher kind), how they compose and are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkd.fields import fit_all, hints_of
from segkd.losses.context import Context, TaskWeight, TrainingData
from segkd.prediction import NetworkInfo, Prediction
from segkd.registry import Registry, UserError, unknown

VARIANTS = ("paper", "official")
METHODS: Registry[type[Part]] = Registry("method")


class Part:
    """One atomic method. A subclass names its frozen dataclass of hyper-parameters and what the released code changes.

    ``official``: the fields whose default differs under variant="official"; None where no code was released.
    ``per_image``: a term's loss on a batch is the mean of its losses on the images, a weighting's map of an image does not
    depend on the others, and neither draws random numbers; then every process of a run computes it for its own images.
    False is right for every part: each process then sees the predictions on the whole batch.
    ``label_free``: a term that never looks at the labels, so that images without any teach by it.
    A part keeps the state of one run, in the module that `build` returns: make a new method for a new run.
    """

    Hyper: ClassVar[type]
    official: ClassVar[dict[str, Any] | None] = {}
    needs_teacher: ClassVar[bool] = True
    per_image: bool = False
    label_free: bool = False
    needs_teacher_aux: ClassVar[bool] = False  # whether it may read the teacher's auxiliary scores, which are made only then

    def __init__(self, name: str, hyper: Any):
        self.name = name
        self.hyper = hyper

    def build(self, student: NetworkInfo, teacher: NetworkInfo | None) -> nn.Module:
        """The part's modules: their state goes to the checkpoint, their parameters join the student's optimiser.

        Parameters with ``requires_grad=False`` stay outside (a part trains them itself, in `learn` and `after_step`).
        Raises UserError, naming both networks, when one of them lacks what the method needs.
        """
        return nn.Module()

    def prepare(self, teacher: Callable[[Tensor, Tensor, int], Prediction], data: TrainingData) -> None:
        """Work before the first step (learning masks, say); nothing by default. Its outcome belongs in the modules.

        ``teacher(images, labels, step)`` gives the teacher's prediction, fed as its kind demands.
        """

    def learn(self, context: Context) -> dict[str, Tensor]:
        """Gradients of what the part trains itself (a discriminator, say), before the student's update; none by default.

        Returns its losses and the size of their gradients, as named scalars. If one of them is not finite, nor anything of
        the student's, no update is made at all: neither the student's nor the part's own, which belongs in `after_step`.
        """
        return {}

    def after_step(self, context: Context) -> None:
        """Work after the student's optimiser step (a discriminator's own update, say); nothing by default."""


class Term(Part):
    """Adds to the loss."""

    def loss(self, context: Context) -> dict[str, Tensor]:
        """Scalars, already weighted, named by the part (``kd``) or by the part and a sub-term (``cwd/feature``)."""
        raise NotImplementedError


class TaskWeighting(Part):
    """Weights the cross-entropy pixel by pixel."""

    def task_weight(self, context: Context) -> TaskWeight | None:
        """The weights of this step, or None for the plain cross-entropy."""
        raise NotImplementedError


class TeacherKind(Part):
    """Says how the teacher is fed and how it is trained; by itself it adds nothing to a student's loss."""

    needs_teacher = False
    extra_channels: ClassVar[int] = 0

    def teacher_input(self, images: Tensor, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Input of a finished teacher: (B, 3 + extra_channels, H, W)."""
        raise NotImplementedError

    def training_input(self, images: Tensor, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """Input of the teacher while it is trained; its first dimension may be a multiple of B."""
        raise NotImplementedError

    def teacher_loss(
        self, prediction: Prediction, labels: Tensor, aux_weight: float = 0.4, align_corners: bool = True
    ) -> dict[str, Tensor]:
        """Named, weighted losses of the teacher's prediction on `training_input`."""
        raise NotImplementedError


class Method:
    """A sum of parts: any number of terms, at most one task weighting, at most one teacher kind."""

    def __init__(self, parts: list[Part], variant: str = "paper"):
        self.parts = {part.name: part for part in parts}
        self.variant = variant
        self.name = "+".join(self.parts) or "baseline"
        self.terms: dict[str, Term] = {name: part for name, part in self.parts.items() if isinstance(part, Term)}
        self.weighting: TaskWeighting | None = self._only(TaskWeighting, "task weighting")
        self.teacher_kind: TeacherKind | None = self._only(TeacherKind, "teacher kind")
        self.needs_teacher: bool = any(part.needs_teacher for part in parts)
        self.needs_teacher_aux: bool = any(part.needs_teacher_aux for part in parts)

    def _only(self, kind: type[Part], words: str) -> Any:
        found = [part for part in self.parts.values() if isinstance(part, kind)]
        if len(found) > 1:
            names = " and ".join(part.name for part in found)
            raise UserError(f"method '{self.name}': {names} are each a {words}, and a method has at most one: drop one")
        return found[0] if found else None

    def hyper(self) -> dict[str, dict[str, Any]]:
        """Every hyper-parameter of every part as it will be used, ready for JSON: {part: {field: value}}."""
        return {name: dataclasses.asdict(part.hyper) for name, part in self.parts.items()}

    def build(self, student: NetworkInfo, teacher: NetworkInfo | None = None) -> nn.ModuleDict:
        """The modules of all parts by name, to be optimised and saved with the student; call once, before the run."""
        if self.needs_teacher and teacher is None:
            raise UserError(f"method '{self.name}' distils: give a teacher for the student '{student.name}'")
        if teacher is not None and teacher.num_classes != student.num_classes:
            raise UserError(
                f"method '{self.name}': teacher '{teacher.name}' has {teacher.num_classes} classes and student "
                f"'{student.name}' {student.num_classes}: train both on the same data set"
            )
        return nn.ModuleDict({name: part.build(student, teacher) for name, part in self.parts.items()})

    def loss(self, context: Context) -> dict[str, Tensor]:
        """The weighted terms of this step by name; their sum joins the task loss. The teacher gets no gradient.

        Where several processes train the run: this one's part of each term, see `distributed.Shard`.
        """
        context = _teacher_cut_off(context)
        if context.shard is None:
            return {name: value for term in self.terms.values() for name, value in term.loss(context).items()}
        whole = None if all(term.per_image for term in self.terms.values()) else context.whole()
        losses = {}
        for term in self.terms.values():
            part = context.shard.fraction if term.per_image else 1 / context.shard.world_size
            losses |= {name: part * value for name, value in term.loss(context if term.per_image else whole).items()}
        return losses

    def task_weight(self, context: Context) -> TaskWeight | None:
        """Weights for `cross_entropy.task_loss`, or None when no part weights the task."""
        if self.weighting is None:
            return None
        context, shard = _teacher_cut_off(context), context.shard
        if shard is None or self.weighting.per_image:
            return self.weighting.task_weight(context)
        weight = self.weighting.task_weight(context.whole())
        return weight and TaskWeight(shard.cut(weight.main), None if weight.aux is None else shard.cut(weight.aux), weight.normaliser)

    def prepare(self, teacher: Callable[[Tensor, Tensor, int], Prediction], data: TrainingData) -> None:
        """Let every part do its work before the first step."""
        for part in self.parts.values():
            part.prepare(teacher, data)

    def learn(self, context: Context) -> dict[str, Tensor]:
        """Losses and gradients of what parts train themselves, each as `Part.learn` names it; alike in every process."""
        return {name: value for part in self.parts.values() for name, value in _ask(part, "learn", context).items()}

    def after_step(self, context: Context) -> None:
        """Let every part do its work after the student's optimiser step."""
        for part in self.parts.values():
            _ask(part, "after_step", context)


def _ask(part: Part, hook: str, context: Context) -> Any:
    """What a part's ``hook`` returns, given the images of all processes where it needs them."""
    context, idle = _teacher_cut_off(context), getattr(type(part), hook) is getattr(Part, hook)
    return getattr(part, hook)(context if context.shard is None or part.per_image or idle else context.whole())


def _teacher_cut_off(context: Context) -> Context:
    return context if context.teacher is None else dataclasses.replace(context, teacher=context.teacher.detach())


def list_methods() -> list[str]:
    """The names that `create_method` composes, sorted; "baseline" stands for none of them."""
    return METHODS.names()


def create_method(spec: str = "baseline", variant: str = "paper", **hyper: Any) -> Method:
    """Make a method from names joined by "+", for example ``create_method("kd+hwd", beta=0.3, kd={"weight": 2.0})``.

    ``variant``: "paper" follows the texts, "official" the released code where it differs. ``hyper``: a field that
    exactly one part has, or ``part={...}``. Raises UserError for unknown or repeated names and values that do not fit.
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    names = [] if spec == "baseline" else [name.strip() for name in spec.split("+")]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(f"method '{spec}': '{twice[0]}' is named twice: name each part once")
    classes = {name: METHODS.get(name) for name in names}
    given = _assign(spec, classes, hyper)
    return Method([_part(name, cls, variant, given[name]) for name, cls in classes.items()], variant)


def _assign(spec: str, classes: dict[str, type[Part]], hyper: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Give every hyper-parameter to the one part that has it."""
    fields = {name: hints_of(cls.Hyper) for name, cls in classes.items()}
    given: dict[str, dict[str, Any]] = {name: {} for name in classes}
    for key, value in hyper.items():
        if key in classes and isinstance(value, Mapping):
            given[key].update(value)
            continue
        owners = [name for name in classes if key in fields[name]]
        if len(owners) > 1:
            many = " and ".join(owners)
            raise UserError(f"method '{spec}': {many} have '{key}': write {owners[0]}={{'{key}': {value!r}}}")
        if not owners:
            raise unknown(f"hyper-parameter of '{spec}'", key, {name for part in fields.values() for name in part})
        given[owners[0]][key] = value
    return given


def _part(name: str, cls: type[Part], variant: str, given: dict[str, Any]) -> Part:
    if variant == "official" and cls.official is None:
        raise UserError(f"method '{name}' has no released code to follow: use variant='paper'")
    fit_all(given, hints_of(cls.Hyper), "hyper-parameter", f"{name}.")
    return cls(name, cls.Hyper(**{**(cls.official if variant == "official" else {}), **given}))


def feature_widths(part: str, student: NetworkInfo, teacher: NetworkInfo) -> tuple[int, int]:
    """Channels of the head features of both networks; UserError, naming both, where one shows none."""
    for role, network in (("student", student), ("teacher", teacher)):
        if network.feature_channels is None:
            raise UserError(
                f"{part}: {role} '{network.name}' (student '{student.name}', teacher '{teacher.name}') shows no feature "
                "before a linear classifier, which the method compares: choose another network or method"
            )
    return student.feature_channels, teacher.feature_channels


def stage_widths(part: str, student: NetworkInfo, teacher: NetworkInfo, instead: str) -> tuple[int, int]:
    """Channels of the last encoder stage of both networks; UserError, naming both and ``instead``, where one shows none."""
    for network in (student, teacher):
        if not network.stage_channels:
            pair = f"student '{student.name}', teacher '{teacher.name}'"
            raise UserError(f"{part}: '{network.name}' ({pair}) shows no encoder stages: set {instead}")
    return student.stage_channels[-1], teacher.stage_channels[-1]

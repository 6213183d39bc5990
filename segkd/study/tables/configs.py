"""From a row of a table to the run behind it: networks, schedule, hyper-parameters and teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace

from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.losses.method import create_method
from segkd.losses.rows import LONGER
from segkd.study.tables.profiles import Profile
from segkd.study.tables.protocols import Protocol, network, protocol
from segkd.study.tables.table import ROUNDING, Row
from segkd.train.trainee import network_info


@dataclass(frozen=True)
class Setting:
    """What the rows of a study have in common unless they say otherwise.

    ``data``: the images before a protocol crops them; ``own_teacher``: a trained network from a file, which stands for
    every plain teacher; ``unlabelled``: images without labels in a taught student's batches.
    """

    paper: str
    profile: Profile
    data: DataConfig
    own_teacher: NetworkConfig | None = None
    unlabelled: int = 0

    def student(self, name: str = "", start: str = "") -> NetworkConfig:
        """The student, or the network ``name`` in its place."""
        if self.profile.own_protocols:
            return network(name or self.profile.student.name, start or "imagenet")
        return named(self.profile.student, name)

    def teacher(self, name: str = "") -> NetworkConfig:
        """The plain teacher, or the network ``name`` in its place."""
        if self.own_teacher:
            return self.own_teacher
        return network(name or self.profile.teacher.name) if self.profile.own_protocols else named(self.profile.teacher, name)

    def schedule(self, table: str = "") -> Schedule:
        """The students' schedule."""
        return self.protocol(table).schedule if self.profile.own_protocols else self.profile.schedule_for(self.data.name)

    def teacher_steps(self, schedule: Schedule, table: str = "", plain: bool = True) -> int:
        """How long a teacher trains, which is otherwise trained as ``schedule`` says."""
        if self.own_teacher and plain:
            return 0
        own = self.protocol(table).teacher_steps if self.profile.own_protocols and plain else None
        return own or round(schedule.steps * self.profile.teacher_steps)

    def images(self, table: str = "") -> DataConfig:
        """The data, cropped and augmented as the table's protocol says."""
        return self.protocol(table).data(self.data) if self.profile.own_protocols else self.data

    def protocol(self, table: str = "") -> Protocol:
        """The paper's protocol, for a profile that follows it."""
        return protocol(self.paper, self.data.name, table)


def named(own: NetworkConfig, name: str) -> NetworkConfig:
    """The network ``name`` at the width of ``own``; ``own`` itself where it is that, or where no name is given."""
    return own if name in ("", own.name) else NetworkConfig(name, own.width)


def with_networks(profile: Profile, paper: str, dataset: str, student: str, teacher: str) -> Profile:
    """A profile with the networks that the reader chose (names or ""), and at ``PROFILE=paper`` with the paper's."""
    if not profile.own_protocols:
        return replace(profile, student=named(profile.student, student), teacher=named(profile.teacher, teacher))
    own = protocol(paper, dataset)
    networks = {"student": network(student or own.student), "teacher": network(teacher or own.teacher)}
    return replace(profile, schedule=own.schedule, **networks)


def row_config(setting: Setting, row: Row, seed: int) -> RunConfig:
    """The run behind a row. Hyper-parameters equal to the defaults are left out, so equal runs are one run."""
    schedule, hyper = _schedule(setting, row), _changed(row)
    config = RunConfig(setting.images(row.printed), setting.student(row.network, row.start), schedule, seed=seed)
    if row.role == "teacher":
        steps = setting.teacher_steps(schedule, row.printed)
        return _controlled(replace(config, network=setting.teacher(row.network), schedule=replace(schedule, steps=steps)), row.control)
    if row.role == "label_teacher":
        assisted = replace(setting.student(row.network), extra_channels=1)
        steps = setting.teacher_steps(schedule, row.printed, plain=False)
        return _controlled(replace(config, network=assisted, schedule=replace(schedule, steps=steps), method="lad", hyper=hyper), row.control)
    method, teacher = create_method(row.spec, **hyper), None
    if method.teacher_kind is not None:
        teacher = Row("", "lad", {k: v for k, v in hyper.items() if k == "lad"}, "label_teacher", network=row.teacher or row.network, printed=row.printed)
    elif method.needs_teacher:
        teacher = Row("", role="teacher", network=row.teacher, printed=row.printed)
    unlabelled = setting.unlabelled if teacher else 0
    taught = replace(config, method=row.spec, hyper=hyper, teacher=teacher and row_config(setting, teacher, seed), unlabelled=unlabelled)
    return _controlled(taught, row.control)


def _schedule(setting: Setting, row: Row) -> Schedule:
    if row.tuning is None:
        return setting.schedule(row.printed)
    plain, (lr, decay) = setting.profile.schedule, row.tuning
    return replace(plain, lr=plain.lr * lr, weight_decay=plain.weight_decay * decay)


def _controlled(config: RunConfig, control: str) -> RunConfig:
    """The run of a control row: trained longer, or taught by a teacher that cannot help (see losses/rows.py), or a copy
    that is rounded otherwise, as its teacher is: on another machine the whole chain would be."""
    if control == "longer":
        return replace(config, schedule=replace(config.schedule, steps=round(LONGER * config.schedule.steps)))
    if control == "untrained_teacher":
        teacher = config.teacher
        network = replace(teacher.network, checkpoint=None, checkpoint_hash="")
        return replace(config, teacher=replace(teacher, network=network, schedule=replace(teacher.schedule, steps=0)))
    if control == "shuffled_teacher":
        return replace(config, teacher_classes="shuffled")
    if control.startswith(ROUNDING):
        copy = int(control.removeprefix(ROUNDING))
        return replace(config, rounding=copy, teacher=config.teacher and replace(config.teacher, rounding=copy))
    return config


def _changed(row: Row) -> dict:
    """The row's hyper-parameters that differ from the method's defaults."""
    given, default = create_method(row.spec, **row.hyper).hyper(), create_method(row.spec).hyper()
    found = {part: {k: v for k, v in values.items() if v != default[part][k]} for part, values in given.items()}
    return {part: differ for part, differ in found.items() if differ}


def too_small(config: RunConfig) -> bool:
    """Whether the run's images, its crops or whole, are smaller than its network or its teacher takes."""
    sides = [side for size in (config.data.crop, config.data.size) if size for side in size]
    networks = [config.network, *([config.teacher.network] if config.teacher else [])]
    return bool(sides) and min(sides) < max(network_info(network, 1).smallest for network in networks)

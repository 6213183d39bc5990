"""The cases of benchmarks/losses.py: inputs, our call, the plain transcription, and what each may cost."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from zlib import crc32

import plain_losses as plain
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.losses import Context, create_method, task_loss
from segkd.prediction import IGNORE, NetworkInfo, Prediction

SHAPES = {19: (2, 19, 64, 128), 150: (2, 150, 64, 64)}  # logits: Cityscapes crops of 512x1024, ADE20K of 512x512
device = torch.device("cpu")  # where all inputs are made: benchmarks/gpu.py sets it
STUDENT_WIDTH, TEACHER_WIDTH, TOKENS, LAM = 128, 256, 8, 0.5
GIB = 1024  # in MiB


def normal(name: str, *shape: int, scale: float = 1.0, gradient: bool = False) -> Tensor:
    """Seeded by the name, so that no tensor depends on which others were made."""
    generator = torch.Generator().manual_seed(crc32(name.encode()))
    return (scale * torch.randn(shape, generator=generator)).to(device).requires_grad_(gradient)


class Inputs:
    """Tensors of one shape (B, C, h, w), each made when first asked for; the student's take gradients."""

    def __init__(self, shape: tuple[int, int, int, int]):
        self.batch, self.classes, *self.grid = shape

    def logits(self, name: str, gradient: bool = False) -> Tensor:
        return normal(name, self.batch, self.classes, *self.grid, scale=3.0, gradient=gradient)

    def feature(self, name: str, width: int, gradient: bool = False) -> Tensor:
        return normal(name, self.batch, width, *self.grid, gradient=gradient)

    student = cached_property(lambda self: self.logits("student", gradient=True))
    teacher = cached_property(lambda self: self.logits("teacher"))
    student_aux = cached_property(
        lambda self: (self.student.detach() + self.logits("student aux") / 3).requires_grad_()
    )
    teacher_aux = cached_property(lambda self: self.teacher + self.logits("teacher aux") / 3)
    feature_s = cached_property(lambda self: self.feature("feature", STUDENT_WIDTH, gradient=True))
    feature_t = cached_property(lambda self: self.feature("teacher feature", TEACHER_WIDTH))
    feature_t_narrow = cached_property(lambda self: self.feature("narrow teacher feature", STUDENT_WIDTH))
    adapted = cached_property(lambda self: self.feature("adapted", TEACHER_WIDTH, gradient=True))
    weight = cached_property(
        lambda self: normal("weight", self.classes, STUDENT_WIDTH, scale=STUDENT_WIDTH**-0.5, gradient=True)
    )
    bias = cached_property(lambda self: normal("bias", self.classes, gradient=True))
    tokens = cached_property(lambda self: normal("tokens", TOKENS, self.classes, scale=0.3))
    mask = cached_property(lambda self: (normal("mask", self.batch, 1, *self.grid) > 0.67).float())  # a quarter stays
    pixels_s = cached_property(lambda self: self.units("student pixels", self.pixels).requires_grad_())
    pixels_t = cached_property(lambda self: self.units("teacher pixels", self.pixels))
    pixel_keys = cached_property(lambda self: self.units("pixel keys", self.classes * (4096 // self.classes + 1)))
    region_keys = cached_property(lambda self: self.units("region keys", self.classes * (1024 // self.classes + 1)))

    @property
    def pixels(self) -> int:
        return self.batch * self.grid[0] * self.grid[1]

    def units(self, name: str, rows: int) -> Tensor:
        return F.normalize(normal(name, rows, TEACHER_WIDTH), dim=1)

    @cached_property
    def labels(self) -> Tensor:
        """(B, 8h, 8w): blocks of one class, 8x8 grid points each, one in twenty ignored."""
        generator = torch.Generator().manual_seed(0)
        rows, columns = (max(1, size // 8) for size in self.grid)
        blocks = torch.randint(self.classes, (self.batch, rows, columns), generator=generator)
        blocks[torch.rand(blocks.shape, generator=generator) < 0.05] = IGNORE
        size = [8 * side for side in self.grid]
        return F.interpolate(blocks[:, None].float(), size=size, mode="nearest")[:, 0].long().to(device)

    @cached_property
    def statistics(self) -> nn.Module:
        """FAKD's class statistics after one batch."""
        return self.updated_statistics()

    def updated_statistics(self) -> nn.Module:
        from segkd.losses.fakd import ClassStatistics

        statistics = ClassStatistics(self.classes, STUDENT_WIDTH).to(device)
        statistics.update(self.feature_s.detach(), self.labels)
        return statistics

    @property
    def heads(self) -> tuple[Tensor, ...]:
        return self.student, self.student_aux, self.teacher, self.teacher_aux, self.labels


@dataclass(frozen=True)
class Case:
    """``ours(module, inputs)`` and ``plain(inputs)`` return tuples of tensors whose sums are followed backward.

    ``module`` is the file of segkd/losses; ``leaves`` names the inputs that take a gradient; ``target`` is in ms and
    ``target_mib`` in extra MiB by number of classes; ``relative`` = (other case, most times its time in the same run).
    """

    module: str
    ours: Callable
    plain: Callable
    leaves: tuple[str, ...] = ("student",)
    target: dict[int, float] = field(default_factory=dict)
    target_mib: dict[int, float] = field(default_factory=dict)
    relative: dict[int, tuple[str, float]] = field(default_factory=dict)


def ours_hwd(module, x: Inputs):
    from segkd.losses.cwd import channelwise_kl

    return (channelwise_kl(x.student, x.teacher, 4.0, module.holistic_weights(x.student, x.teacher, x.labels)),)


def ours_dsd(module, x: Inputs):
    student, teacher = dsd_maps(x)
    return module.pixel_similarity(student, teacher), module.category_similarity(x.student, x.teacher)


def dsd_maps(x: Inputs) -> tuple[list[Tensor], list[Tensor]]:
    return [x.student_aux, x.feature_s, x.student], [x.teacher_aux, x.feature_t, x.teacher]


def ours_cirkd_memory(module, x: Inputs):
    return tuple(module.memory_kl(x.pixels_s, x.pixels_t, keys) for keys in (x.pixel_keys, x.region_keys))


def ours_rdd(stage: str, variant: str = "paper") -> Callable:
    """The weights of a stage and the task loss with them: a whole step without the networks."""

    def work(module, x: Inputs):
        method = create_method("rdd", variant, stage=stage)
        method.build(*[NetworkInfo("network", x.classes, 3, None, (), has_aux=True)] * 2)
        student, teacher = Prediction(x.student, x.student_aux), Prediction(x.teacher, x.teacher_aux)
        context = Context(0, 1, x.labels, x.labels, student, teacher, checked=True)
        return tuple(task_loss(student, x.labels, weight=method.task_weight(context)).values())

    return work


def head_scores(x: Inputs) -> Tensor:
    """The student's logits from its feature: what FAKD has to do besides."""
    return F.conv2d(x.feature_s, x.weight[:, :, None, None], x.bias)


def ours_fakd(name: str, from_feature: bool = False) -> Callable:
    """An augmented loss on the network's logits, as in training, or from its feature; statistics are those of the batch."""

    def work(module, x: Inputs):
        scores = None if from_feature else x.student
        arguments = x.feature_s, (x.weight, x.bias), x.teacher, x.labels, x.statistics, LAM
        return (getattr(module, name)(*arguments, scores=scores),)

    return work


def plain_fakd(function: Callable, from_feature: bool = False) -> Callable:
    def work(x: Inputs):
        scores = head_scores(x) if from_feature else x.student
        return function(scores, x.weight, x.teacher, x.labels, x.statistics.covariance.float(), LAM)

    return work


def ours_statistics(module, x: Inputs):
    statistics = x.updated_statistics()
    return statistics.mean, statistics.covariance


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


HEAD = ("feature_s", "weight")  # and the bias, whose gradient under CWD is zero but for rounding: not compared there
HEADS = ("student", "student_aux")
CASES: dict[str, Case] = {
    "kd": Case(
        "kd",
        lambda m, x: (m.pixelwise_kl(x.student, x.teacher),),
        lambda x: plain.kd(x.student, x.teacher),
        target={19: 2, 150: 9},
    ),
    "cwd": Case(
        "cwd",
        lambda m, x: (m.channelwise_kl(x.student, x.teacher),),
        lambda x: plain.cwd(x.student, x.teacher),
        target={19: 1.5, 150: 6},
    ),
    "hwd": Case("hwd", ours_hwd, lambda x: plain.hwd(x.student, x.teacher, x.labels), target={19: 3, 150: 12}),
    "skd": Case(
        "skd",
        lambda m, x: (m.pairwise_affinity(x.feature_s, x.feature_t_narrow),),
        lambda x: plain.skd(x.feature_s, x.feature_t_narrow),
        leaves=("feature_s",),
        target={19: 90, 150: 22},
    ),
    "ifvd": Case(
        "ifvd",
        lambda m, x: (m.intra_class_variation(x.feature_s, x.feature_t_narrow, x.labels, x.classes),),
        lambda x: plain.ifvd(x.feature_s, x.feature_t_narrow, x.labels, x.classes),
        leaves=("feature_s",),
        target={19: 20, 150: 20},
        target_mib={150: 0.2 * GIB},
    ),
    "at": Case(
        "at",
        lambda m, x: (m.attention_transfer(x.feature_s, x.feature_t),),
        lambda x: plain.at(x.feature_s, x.feature_t),
        leaves=("feature_s",),
    ),
    "dsd": Case("dsd", ours_dsd, lambda x: plain.dsd(*dsd_maps(x)), leaves=(*HEADS, "feature_s")),
    "fitnet": Case(
        "fitnet",
        lambda m, x: (m.feature_mse(x.adapted, x.feature_t),),
        lambda x: plain.fitnet(x.adapted, x.feature_t),
        leaves=("adapted",),
    ),
    "cirkd_batch": Case(
        "cirkd",
        lambda m, x: (m.cross_image_kl(x.feature_s, x.feature_t),),
        lambda x: plain.cirkd_batch(x.feature_s, x.feature_t),
        leaves=("feature_s",),
        target={19: 3000, 150: 800},
        target_mib={19: 0.6 * GIB, 150: 0.6 * GIB},
    ),
    "cirkd_memory": Case(
        "cirkd",
        ours_cirkd_memory,
        lambda x: plain.cirkd_memory(x.pixels_s, x.pixels_t, x.pixel_keys, x.region_keys),
        leaves=("pixels_s",),
        target={19: 900, 150: 700},
    ),
    "maskd": Case(
        "maskd",
        lambda m, x: (m.masked_mse(x.student, x.teacher, x.tokens),),
        lambda x: plain.maskd(x.student, x.teacher, x.tokens),
        target={19: 2, 150: 10},
    ),
    "mgd": Case(
        "mgd",
        lambda m, x: (m.masked_generation(x.student, x.teacher, nn.Identity(), x.mask),),
        lambda x: plain.mgd(x.student, x.teacher, nn.Identity(), x.mask),
        target={19: 4, 150: 20},
    ),
    "dist": Case(
        "dist",
        lambda m, x: (m.correlation_distance(x.student, x.teacher),),
        lambda x: plain.dist(x.student, x.teacher),
        target={19: 4, 150: 15},
    ),
    "cwd_head": Case(
        "cwd",
        lambda m, x: (m.channelwise_kl(head_scores(x), x.teacher),),
        lambda x: plain.cwd(head_scores(x), x.teacher),
        leaves=HEAD,
    ),
    "fakd_cwd": Case(
        "fakd",
        ours_fakd("augmented_channelwise"),
        plain_fakd(plain.fakd_cwd),
        leaves=("student", "weight"),
        relative={19: ("cwd", 1.3), 150: ("cwd", 1.3)},
    ),
    "fakd_pd": Case(
        "fakd",
        ours_fakd("augmented_pixelwise"),
        plain_fakd(plain.fakd_pd),
        leaves=("student", "weight"),
        relative={19: ("kd", 3.0)},
    ),
    "fakd_cwd_feature": Case(
        "fakd",
        ours_fakd("augmented_channelwise", from_feature=True),
        plain_fakd(plain.fakd_cwd, from_feature=True),
        leaves=HEAD,
        relative={19: ("cwd_head", 1.3), 150: ("cwd_head", 1.3)},
    ),
    "fakd_statistics": Case(
        "fakd",
        ours_statistics,
        lambda x: plain.class_moments(x.feature_s.detach(), x.labels, x.classes),
        leaves=(),
    ),
    "rdd_tfe": Case("rdd", ours_rdd("tfe"), lambda x: plain.tfe(*x.heads), HEADS, {19: 250, 150: 1000}),
    "rdd_tse": Case("rdd", ours_rdd("tse"), lambda x: plain.tse(*x.heads), HEADS, {19: 450, 150: 1500}),
    "rdd_tfe_official": Case("rdd", ours_rdd("tfe", "official"), lambda x: plain.tfe(*x.heads, official=True), HEADS),
    "rdd_tse_official": Case("rdd", ours_rdd("tse", "official"), lambda x: plain.tse(*x.heads, official=True), HEADS),
    "lad_noise": Case(
        "lad",
        lambda m, x: (m.LabelNoise(x.classes)(x.labels, seeded()),),
        lambda x: (plain.label_noise(x.labels, x.classes, seeded()),),
        leaves=(),
        target={19: 6, 150: 6},
    ),
}

"""LAD, label-assisted distillation (LAD paper, Eq. 5-8): a teacher that sees the noised label as a fourth channel.

Code read: skyshoumeng/Label_Assisted_Distillation@cd08406 train_baseline.py. The student's loss is a term, not this
file: the paper's LAD row is "lad+cwd". Differences of the code, in variant="official": consistency 5 and in both
directions, pixel noise 0.03 for the teacher's training and 0.02 when it teaches, fixed class codes then, void as one
more class, and a label channel scaled to its 0-255 images (about 1.75 in units of the normalised image). Not reproduced
here, since they belong to the network and the schedule: a student with a zero fourth channel that starts from a
finished checkpoint, auxiliary weight 0.02, dropout 0.01. The two paths run as one forward pass of the doubled batch, so
batch normalisation sees both; the code runs them one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from segkd.device import send
from segkd.fields import NotNegative, Positive
from segkd.losses.context import class_labels
from segkd.losses.cross_entropy import task_loss
from segkd.losses.cwd import channelwise_kl
from segkd.losses.distributed import count_over_processes
from segkd.losses.method import METHODS, TeacherKind
from segkd.prediction import NetworkInfo, Prediction
from segkd.registry import UserError, unknown

VOID = ("zero", "class")


class LabelNoise:
    """The label channel phi(Y) = gain * (code of the class + alpha * Z), Z ~ N(0, 1) at every pixel; LAD Eq. 5.

    ``class_noise=True`` draws one code ~ N(0, 1) for each image and class; False takes index / (classes - 1), mapped to
    [-2, 2]; ``codes`` fixes them (one number for each class, and for void where it is one). ``void="zero"``: ignored
    pixels have code 0 (their one-hot vector is zero); "class": they are one more class. ``gain`` in units of the
    normalised image.
    """

    def __init__(
        self,
        num_classes: int,
        alpha: float = 0.01,
        class_noise: bool = True,
        gain: float = 1.0,
        *,
        void: str = "zero",
        codes: Sequence[float] | None = None,
    ):
        if void not in VOID:
            raise unknown("void", void, VOID)
        self.classes = num_classes + (void == "class")
        if codes is not None and len(codes) != self.classes:
            raise UserError(f"label noise: {len(codes)} codes for {self.classes} classes, void={void!r}: give one each")
        self.num_classes, self.alpha, self.class_noise, self.gain = num_classes, alpha, class_noise, gain
        self.codes = codes

    def __call__(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Labels (B, H, W) to the channel (B, 1, H, W) in torch's default float type, drawn anew at each call."""
        labels = class_labels(labels)
        codes = send(self._codes(len(labels), generator), labels.device)
        void = codes[:, self.num_classes :] if codes.shape[1] > self.num_classes else codes.new_zeros(len(labels), 1)
        table = torch.cat([void, codes[:, : self.num_classes], void], 1)  # for labels -1 (or less), classes, C (or more)
        index = labels.clamp(-1, self.num_classes).add_(1)
        channel = table.gather(1, index.flatten(1)).view(labels.shape)
        if self.alpha:
            channel.add_(pixel_noise(labels, generator), alpha=self.alpha)
        return channel.mul_(self.gain)[:, None]

    def _codes(self, images: int, generator: torch.Generator | None) -> Tensor:
        """One code for each image and class (B, classes)."""
        if self.codes is not None:
            return torch.tensor(self.codes, dtype=torch.get_default_dtype()).expand(images, -1)
        if self.class_noise:
            device = "cpu" if generator is None else generator.device
            return torch.randn(images, self.classes, generator=generator, device=device)
        steps = torch.arange(self.classes).to(torch.get_default_dtype()) / max(self.classes - 1, 1)
        return (4 * steps - 2).expand(images, -1)


def pixel_noise(labels: Tensor, generator: torch.Generator | None) -> Tensor:
    """N(0, 1) for each pixel, drawn where the labels lie; the generator gives the seed when it lives elsewhere."""
    if generator is not None and generator.device.type != labels.device.type:
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        generator = torch.Generator(labels.device).manual_seed(seed)
    return torch.randn(labels.shape, generator=generator, device=labels.device)


def dual_path_consistency(logits_1: Tensor, logits_2: Tensor, temperature: float = 4.0, symmetric: bool = False) -> Tensor:
    """CWD between the teacher's two paths, logits (B, C, h, w); the D of LAD Eq. 7.

    Plain: KL(path 2 || path 1) with gradient into both. ``symmetric``: the sum of both directions, in each of which the
    path that plays the teacher is detached (the released code).
    """
    if not symmetric:
        return channelwise_kl(logits_1, logits_2, temperature)
    there = channelwise_kl(logits_1, logits_2.detach(), temperature)
    return there + channelwise_kl(logits_2, logits_1.detach(), temperature)


@dataclass(frozen=True)
class LADHyper:
    """Hyper-parameters of LAD's teacher."""

    alpha: NotNegative = 0.01  # LAD paper section 4.1 and Table 9; 0.03 in the code's teacher stage
    teaching_alpha: NotNegative | None = None  # noise when it teaches; unset: alpha (paper); 0.02 in the code
    class_noise: bool = True  # LAD Eq. 5; Table 9 without
    teaching_codes: Literal["same", "fixed"] = "same"  # paper: drawn as in training; the code: fixed, 0.1 apart
    consistency: NotNegative = 1.0  # lambda: LAD paper section 4.1; 5 in the code
    symmetric: bool = False  # LAD Eq. 7; both directions in the code
    temperature: Positive = 4.0  # as CWD (LAD paper section 4.1); the code
    gain: NotNegative = 1.0  # images of unit variance; the code's 100 on 0-255 images is about 1.75
    void: Literal["zero", "class"] = "zero"  # not stated (a one-hot vector of zeros); one more class in the code


@METHODS.register("lad")
class LAD(TeacherKind):
    """A teacher fed with image and noised label, trained on two noised paths."""

    Hyper = LADHyper
    extra_channels = 1
    official = {
        "alpha": 0.03,
        "teaching_alpha": 0.02,
        "teaching_codes": "fixed",
        "consistency": 5.0,
        "symmetric": True,
        "gain": 1.75,
        "void": "class",
    }

    def build(self, student: NetworkInfo, teacher: NetworkInfo | None) -> nn.Module:
        """No state; ``student`` is the network in training, which is the teacher itself while that is trained."""
        hyper, classes = self.hyper, student.num_classes
        self.noise = LabelNoise(classes, hyper.alpha, hyper.class_noise, hyper.gain, void=hyper.void)
        alpha = hyper.alpha if hyper.teaching_alpha is None else hyper.teaching_alpha
        codes = fixed_codes(self.noise.classes) if hyper.teaching_codes == "fixed" else None
        self.teaching_noise = LabelNoise(classes, alpha, hyper.class_noise, hyper.gain, void=hyper.void, codes=codes)
        return nn.Module()

    def teacher_input(self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (B, 3, H, W) and labels (B, H, W) to what the finished teacher sees, (B, 4, H, W)."""
        return torch.cat([images, self.teaching_noise(labels, generator).to(images.dtype)], 1)

    def training_input(self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Two independently noised paths, one after the other, as one batch (2B, 4, H, W)."""
        return torch.cat([torch.cat([images, self.noise(labels, generator).to(images.dtype)], 1) for _ in range(2)])

    def teacher_loss(
        self, prediction: Prediction, labels: Tensor, aux_weight: float = 0.4, align_corners: bool = True
    ) -> dict[str, Tensor]:
        """Task losses of both paths, added up, and their consistency; ``prediction`` on `training_input`. LAD Eq. 7.

        Where several processes train the run, this one's part of each: consistency is a mean over images.
        """
        first, second = prediction.split(2)
        losses = task_loss(first, labels, aux_weight, align_corners=align_corners)
        for name, value in task_loss(second, labels, aux_weight, align_corners=align_corners).items():
            losses[name] = losses[name] + value
        hyper = self.hyper
        gap = dual_path_consistency(first.logits, second.logits, hyper.temperature, hyper.symmetric)
        part = len(labels) / count_over_processes(len(labels), labels)
        return {**losses, f"{self.name}/consistency": hyper.consistency * gap * part}


def fixed_codes(classes: int) -> list[float]:
    """Codes 0.1 apart around the middle class: (k - 11) / 10 for the 22 of VOC with void, the only set in the code."""
    return [(k - classes // 2) / 10 for k in range(classes)]

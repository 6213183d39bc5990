"""SKD, structured knowledge distillation (Liu et al. 2019, 2020): pixel-wise, pair-wise and holistic (adversarial) terms.

Code read: irfanICMLL/structure_knowledge_distillation@ce208e1 (SKD's own, variant="official") and winycg/CIRKD@2d8ad0f
losses/skd.py, utils/sagan.py, train_kd.py (the reference, which the tables of RDD, LAD and HWD rest on). Differences of
SKD's own code: pixel term in "batch_sum" form at 10, pair-wise term on maps pooled to about 3 x 3 nodes (pool="half",
without gradient through the norm) at 0.5, WGAN-GP at 0.1 with SGD and poly decay; CIRKD: KD 1, 2 x 2 pooling at 10, hinge
at 0.001 with Adam at a constant rate. Both discriminators see raw scores; the first version of SKD (2019) showed them
the image and probabilities: not reproduced. Both need a score grid of 64 x 64; here a map that a convolution does not
fit into is padded with zeros, which equals cutting that kernel, so any grid from 8 x 8 will do. CIRKD's code runs the
discriminator even at weight zero; here it is then not built.

IFVD and CWD rows of CIRKD-style tables contain the holistic term as well: part ``skd`` with ``pair_weight=0``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.nn.utils.parametrizations import spectral_norm

from segkd.device import send
from segkd.fields import Count, NotNegative, Positive
from segkd.losses.context import Context
from segkd.losses.kd import pixelwise_kl
from segkd.losses.method import METHODS, Term, feature_widths
from segkd.losses.precision import full_precision, wide
from segkd.prediction import NetworkInfo
from segkd.registry import UserError


@full_precision
def pairwise_affinity(student_feature: Tensor, teacher_feature: Tensor, pool: int | str = 2) -> Tensor:
    """Mean over images and pairs of nodes of the squared gap between both networks' cosines; features (B, A, h, w).

    Nodes are maxima over ``pool`` x ``pool`` windows (ceil); "half": over windows of half the map, and the norm of the
    cosine is a constant, as in SKD's own code.
    """
    if pool != "half" and not (isinstance(pool, int) and pool >= 1):
        raise UserError(f"pairwise affinity: pool={pool!r}, expected a whole number from 1 or 'half'")
    student, teacher = (nodes(f, pool) for f in (student_feature, teacher_feature))
    count = student.shape[2]
    if count <= max(student.shape[1], teacher.shape[1]):
        gap = student.transpose(1, 2) @ student - teacher.transpose(1, 2) @ teacher
        return gap.square().mean()
    return _affinity_by_channels(student.double(), teacher.double()).to(student.dtype) / count**2


def nodes(feature: Tensor, pool: int | str) -> Tensor:
    """Unit feature vectors of the pooled map, (B, A, n)."""
    size = tuple(max(side // 2, 1) for side in feature.shape[-2:]) if pool == "half" else pool
    pooled = F.max_pool2d(feature, size, size, ceil_mode=True).flatten(2)
    if pool == "half":
        return pooled / (pooled.detach().norm(dim=1, keepdim=True) + 1e-8)
    return F.normalize(pooled, dim=1, eps=1e-12)


def _affinity_by_channels(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared gap summed over pairs of nodes, mean over images, without a tensor of nodes x nodes.

    ||S'S - T'T||^2 = ||SS'||^2 + ||TT'||^2 - 2 ||ST'||^2, with matrices of channels x channels. The sum cancels where the
    networks agree, hence float64.
    """
    energy = lambda a, b: (a @ b.transpose(1, 2)).square().sum((1, 2))  # noqa: E731
    return (energy(student, student) + energy(teacher, teacher) - 2 * energy(student, teacher)).clamp_min(0).mean()


class SelfAttention(nn.Module):
    """Each position adds what it attends to, times a gain that starts at zero (Zhang et al. 2019, SAGAN)."""

    def __init__(self, channels: int):
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        query, key, value = (f(maps).flatten(2) for f in (self.query, self.key, self.value))
        attention = (query.transpose(1, 2) @ key).softmax(-1)  # (B, N, N), a distribution over the keys
        return maps + self.gamma * (value @ attention.transpose(1, 2)).view_as(maps)


class Discriminator(nn.Module):
    """Tells a teacher's scores (B, C, h, w) from a student's: one number for each image, high for the teacher.

    BatchNorm, four spectrally normalised convolutions that halve the map, self-attention behind the last two, and a last
    convolution, averaged over what is left of the map. Grids from 8 x 8.
    """

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (64, 128, 256, 512)):
        super().__init__()
        self.norm = nn.BatchNorm2d(num_classes)
        pairs = zip((num_classes, *widths[:-1]), widths)
        self.stages = nn.ModuleList(
            nn.Sequential(spectral_norm(nn.Conv2d(old, new, 4, 2, 1)), nn.LeakyReLU(0.1)) for old, new in pairs
        )
        self.attentions = nn.ModuleList(SelfAttention(width) for width in widths[-2:])
        self.last = nn.Conv2d(widths[-1], 1, 4)

    def forward(self, scores: Tensor) -> Tensor:
        maps, plain = self.norm(scores), len(self.stages) - len(self.attentions)
        for number, stage in enumerate(self.stages):
            maps = stage(_at_least(maps, 2))
            if number >= plain:
                maps = self.attentions[number - plain](maps)
        return self.last(_at_least(maps, 4)).mean((1, 2, 3))


def _at_least(maps: Tensor, side: int) -> Tensor:
    """Maps padded with zeros to at least ``side`` x ``side``."""
    missing = [max(side - n, 0) for n in maps.shape[-2:]]
    return F.pad(maps, (0, missing[1], 0, missing[0])) if any(missing) else maps


def generator_loss(fake: Tensor) -> Tensor:
    """What the student minimises: minus the mean score (B,) that the discriminator gives to it."""
    return -fake.mean()


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Discriminator's hinge loss on the scores (B,) of teacher and student."""
    return (1 - real).relu().mean() + (1 + fake).relu().mean()


def wasserstein_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Discriminator's Wasserstein loss on the scores (B,) of teacher and student, without the penalty."""
    return fake.mean() - real.mean()


def gradient_penalty(
    discriminator: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Mean of (norm of the gradient - 1)^2 at a random point between teacher and student scores (B, C, h, w)."""
    device = real.device if generator is None else generator.device
    place = send(torch.rand(len(real), 1, 1, 1, generator=generator, device=device), real.device).to(real.dtype)
    between = (place * real + (1 - place) * fake).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


@dataclass(frozen=True)
class SKDHyper:
    """Hyper-parameters of SKD."""

    pixel_weight: NotNegative = 1.0  # CIRKD-v1 train_skd.sh, lambda_kd; 10 in SKD's own code
    pixel_reduction: Literal["pixel_mean", "element_mean", "batch_sum"] = "pixel_mean"  # CIRKD-v1; SKD's own batch_sum
    pair_weight: NotNegative = 10.0  # CIRKD-v1 train_skd.sh, HWD code; 0.5 in SKD's published script
    pool: Count | Literal["half"] = 2  # CIRKD-v1 losses/skd.py; "half" in SKD's own code
    holistic_weight: NotNegative = 0.001  # CIRKD-v1 train_skd.sh, lambda_adv; 0.1 in SKD's own code
    adversarial: Literal["hinge", "wgan-gp"] = "hinge"  # CIRKD-v1, HWD code; WGAN-GP in SKD's own
    discriminator_weight: NotNegative = 0.1  # CIRKD-v1 train_skd.sh, lambda_d; SKD's own code
    penalty: NotNegative = 10.0  # SKD's own code, of the gradient penalty
    discriminator_lr: Positive = 4e-4  # CIRKD-v1 train_kd.py; SKD's own code
    discriminator_optimiser: Literal["adam", "sgd"] = "adam"  # CIRKD-v1, betas 0.9, 0.99; SGD 0.9, 5e-4 in SKD's own
    discriminator_decay: NotNegative = 0.0  # poly power: CIRKD-v1 keeps the rate; 0.9 in SKD's own code


@METHODS.register("skd")
class SKD(Term):
    """Pixel-wise KD, pair-wise affinities of head features, and a discriminator on the scores."""

    Hyper = SKDHyper
    label_free = True
    official = {
        "pixel_weight": 10.0,
        "pixel_reduction": "batch_sum",
        "pair_weight": 0.5,
        "pool": "half",
        "holistic_weight": 0.1,
        "adversarial": "wgan-gp",
        "discriminator_optimiser": "sgd",
        "discriminator_decay": 0.9,
    }

    def __init__(self, name: str, hyper: SKDHyper):
        super().__init__(name, hyper)
        self.module = nn.Module()

    def build(self, student: NetworkInfo, teacher: NetworkInfo | None) -> nn.Module:
        """The discriminator with its own optimiser, if it has a weight."""
        if self.hyper.pair_weight:
            feature_widths(self.name, student, teacher)
        if self.hyper.holistic_weight:
            self.module = Adversary(student.num_classes, self.hyper)
        return self.module

    def loss(self, context: Context) -> dict[str, Tensor]:
        hyper, student, losses = self.hyper, context.student, {}
        if hyper.pixel_weight:
            value = pixelwise_kl(student.logits, context.teacher_logits(), reduction=hyper.pixel_reduction)
            losses[f"{self.name}/pixel"] = hyper.pixel_weight * value
        if hyper.pair_weight:
            teacher = context.on_student_grid(context.teacher.feature)
            losses[f"{self.name}/pair"] = hyper.pair_weight * pairwise_affinity(student.feature, teacher, hyper.pool)
        if hyper.holistic_weight:
            fake = wide(self.module.discriminator, student.logits)
            losses[f"{self.name}/holistic"] = hyper.holistic_weight * generator_loss(fake)
        return losses

    def learn(self, context: Context) -> dict[str, Tensor]:
        """The discriminator's loss and largest gradient, on the scores that the student is being trained with."""
        if not self.hyper.holistic_weight:
            return {}
        found = self.module.learn(context.teacher_logits(), context.student.logits.detach(), context.generator)
        return {f"{self.name}/{name}": value for name, value in found.items()}

    def after_step(self, context: Context) -> None:
        """The discriminator's own update."""
        if self.hyper.holistic_weight:
            self.module.update(context.step / context.total_steps)


class Adversary(nn.Module):
    """The discriminator and its optimiser, whose state is saved with the weights."""

    def __init__(self, num_classes: int, hyper: SKDHyper):
        super().__init__()
        self.hyper = hyper
        self.discriminator = Discriminator(num_classes).requires_grad_(False)  # not the student's optimiser's business
        weights, lr = list(self.discriminator.parameters()), hyper.discriminator_lr
        adam = hyper.discriminator_optimiser == "adam"
        make = torch.optim.Adam if adam else torch.optim.SGD
        self.optimiser = make(weights, lr, **({"betas": (0.9, 0.99)} if adam else {"momentum": 0.9, "weight_decay": 5e-4}))

    @full_precision
    def learn(self, real: Tensor, fake: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Its gradient on teacher scores ``real`` and student scores ``fake``; gives its loss and the largest gradient."""
        hyper, scored = self.hyper, self.discriminator.requires_grad_(True)
        loss = {"hinge": hinge_loss, "wgan-gp": wasserstein_loss}[hyper.adversarial](scored(real), scored(fake))
        if hyper.adversarial == "wgan-gp":
            loss = loss + hyper.penalty * gradient_penalty(scored, real, fake, generator)
        self.optimiser.zero_grad(set_to_none=True)
        loss = hyper.discriminator_weight * loss
        loss.backward()
        self.discriminator.requires_grad_(False)
        gradients = [p.grad for p in self.discriminator.parameters() if p.grad is not None]
        return {"discriminator": loss.detach(), "discriminator_gradient": get_total_norm(gradients, math.inf)}

    def update(self, progress: float) -> None:
        """The step that the gradient is for; ``progress``: of the run, from 0 to 1."""
        hyper = self.hyper
        self.optimiser.param_groups[0]["lr"] = hyper.discriminator_lr * math.pow(1 - progress, hyper.discriminator_decay)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def get_extra_state(self) -> Any:
        """The optimiser's state, for the checkpoint."""
        return self.optimiser.state_dict()

    def set_extra_state(self, state: Any) -> None:
        """Take over what `get_extra_state` gave."""
        self.optimiser.load_state_dict(state)

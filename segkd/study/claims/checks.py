"""Claims that need no training: counts of networks and formulas, checked on the spot. Each gives (holds, what was found)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from segkd.analysis.cost import counted
from segkd.losses.fakd import ClassStatistics, augmented_channelwise, augmented_pixelwise
from segkd.losses.hwd import activation_maps, holistic_weights, standardise
from segkd.losses.method import create_method
from segkd.models import create_model

CheckResult = tuple[bool, str]
SIZE = (1024, 2048)  # of Cityscapes, which the papers count at
DRAWS, PARTS = 4000, 20  # of features in the check of FAKD's bound, in parts that give the standard error


def label_channel() -> CheckResult:
    """LAD Table 1: what a fourth input channel adds to DeepLabV3-R18 and PSPNet-R18; almost nothing is less than 1 %."""
    found = []
    for name in ("deeplabv3", "pspnet"):
        plain, assisted = (counted(f"{name}/resnet18", 19, channels, SIZE) for channels in (3, 4))
        found += [100 * (assisted[key] / plain[key] - 1) for key in ("params", "macs")]
    text = "DeepLabV3-R18: parameters +{:.3f} %, multiply-adds +{:.3f} %; PSPNet-R18: +{:.3f} %, +{:.3f} %".format(*found)
    return max(found) < 1, text


def same_network() -> CheckResult:
    """RDD Tables 1-4: its students are the networks of the tables, whatever they are trained with: RDD has no modules."""
    with torch.device("meta"):
        info = create_model("deeplabv3", "resnet18").info
    extra = sum(p.numel() for p in create_method("rdd").build(info, info).parameters())
    return extra == 0, f"RDD adds {extra} parameters to a student; the deployed network is that of every other method"


def augmentation_bound() -> CheckResult:
    """FAKD Theorem 1, on random features: the closed form is no less than the mean loss over drawn features."""
    draws = torch.Generator().manual_seed(0)
    new = lambda *shape: torch.randn(*shape, generator=draws, dtype=torch.float64)  # noqa: E731
    feature, weight, bias, teacher = new(1, 3, 3, 4), new(5, 3), new(5), 2 * new(1, 5, 3, 4)
    labels = torch.randint(0, 5, (1, 3, 4), generator=draws)
    statistics = ClassStatistics(5, 3).double()
    statistics.update(new(4, 3, 6, 6), torch.randint(0, 5, (4, 6, 6), generator=draws))
    deviation = statistics.covariance[labels].permute(0, 3, 1, 2).sqrt()
    gaps, size = [], DRAWS // PARTS
    for closed in (augmented_channelwise, augmented_pixelwise):
        def loss(f, lam):  # the mean over a batch of draws of one image
            same = teacher.expand(len(f), -1, -1, -1), labels.expand(len(f), -1, -1)
            return closed(f, (weight, bias), *same, statistics, lam)  # noqa: B023
        drawn = torch.stack([loss(feature + deviation * new(size, 3, 3, 4), 0.0) for _ in range(PARTS)])
        gaps.append(float((loss(feature, 1.0) - drawn.mean()) / (drawn.std() / PARTS**0.5)))
    text = "closed form above the mean of {} draws by {:.0f} (CWD) and {:.0f} (PD) standard errors".format(DRAWS, *gaps)
    return min(gaps) > 3, text + "; equal to the plain loss at lambda 0 (tests of the losses)"


def holistic_limits() -> CheckResult:
    """HWD Eq. 6 and 7: the sum of the weights, the limits of beta, and that a mean alone changes no softmax."""
    draws = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 11, 6, 8, generator=draws, dtype=torch.float64) for _ in range(2))
    made = lambda **options: holistic_weights(student, teacher, **options)  # noqa: E731
    maps = [activation_maps(z.flatten(2), 4.0) for z in (student, teacher)]
    score = standardise((maps[0] - maps[1]).square().mean(-1))
    small = made(beta=1e-12)
    parts = {
        "sum C": torch.allclose(made().sum(1), torch.tensor(11.0, dtype=torch.float64)),
        "beta to 1 is the plain softmax": torch.allclose(made(beta=1 - 1e-9), 11 * score.softmax(1), atol=1e-6),
        "beta to 0 mutes scores below 0": bool((small[score < -0.2] < 1e-6).all()),
        "and equalises those above": all(float(w[s > 0.2].std()) < 0.05 for w, s in zip(small, score)),
        "mu does not matter without smoothing": torch.allclose(
            made(softmax_temperature=1.0, mu=2.0), made(softmax_temperature=1.0)
        ),
        "a large mu is CWD": torch.allclose(made(mu=12.0), torch.ones(4, 11, dtype=torch.float64), atol=1e-3),
    }  # fmt: skip
    return all(parts.values()), "; ".join(f"{name}: {'yes' if holds else 'NO'}" for name, holds in parts.items())


CHECKS: dict[str, Callable[[], CheckResult]] = {
    "label_channel": label_channel, "same_network": same_network, "augmentation_bound": augmentation_bound, "holistic_weights": holistic_limits,
}  # fmt: skip

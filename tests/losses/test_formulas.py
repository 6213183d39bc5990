"""What holds for every formula of a student and a teacher: at rest at the teacher, and half precision computed in single."""

import pytest
import torch

from segkd.losses.at import attention_transfer
from segkd.losses.cirkd import cross_image_kl, memory_kl
from segkd.losses.cwd import channelwise_kl
from segkd.losses.dist import correlation_distance
from segkd.losses.dsd import category_similarity, pixel_similarity
from segkd.losses.fitnet import feature_mse
from segkd.losses.hwd import holistic_weights
from segkd.losses.ifvd import intra_class_variation
from segkd.losses.kd import pixelwise_kl
from segkd.losses.maskd import masked_mse
from segkd.losses.mgd import masked_generation
from segkd.losses.skd import pairwise_affinity
from tests.losses.harness import normal

SHAPE = (2, 3, 4, 5)
TOKENS, KEYS = (torch.tensor(a) for a in normal((4, 3), (6, 3), seed=7))
LABELS = torch.arange(40).view(2, 4, 5) % 3
rows = lambda x: torch.nn.functional.normalize(x.flatten(2).mT.flatten(0, 1), dim=1)
FORMULAS = {  # of maps (2, 3, 4, 5); the second number: what is left at the teacher
    "kd": (pixelwise_kl, 0),
    "kd, elements": (lambda s, t: pixelwise_kl(s, t, 2.0, "element_mean"), 0),
    "cwd": (channelwise_kl, 0),
    "hwd": (lambda s, t: channelwise_kl(s, t, 4.0, holistic_weights(s, t, LABELS)), 0),
    "at": (attention_transfer, 0),
    "fitnet": (feature_mse, 0),
    "dist": (correlation_distance, 1e-5),  # of the 1e-8 of the denominator
    "dist on scores": (lambda s, t: correlation_distance(s, t, softmax=False), 1e-5),
    "dsd/pixel": (lambda s, t: pixel_similarity([s, s.flip(3)], [t, t.flip(3)]), 0),
    "dsd/category": (category_similarity, 0),
    "ifvd": (lambda s, t: intra_class_variation(s, t, LABELS, 3), 0),
    "maskd": (lambda s, t: masked_mse(s, t, TOKENS.to(s.dtype)), 0),
    "mgd": (lambda s, t: masked_generation(s, t, torch.nn.Identity(), torch.ones_like(s[:, :1])), 0),
    "skd/pair": (pairwise_affinity, 0),
    "skd/pair, half": (lambda s, t: pairwise_affinity(s, t, "half"), 0),
    "cirkd/batch": (cross_image_kl, 1e-12),
    "cirkd/memory": (lambda s, t: memory_kl(rows(s), rows(t), KEYS), 1e-12),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_least_and_at_rest_at_the_teacher(name):
    (loss, left), (student, teacher) = FORMULAS[name], map(torch.tensor, normal(SHAPE, SHAPE))
    own = teacher.clone().requires_grad_()
    value = loss(own, teacher)
    value.backward()
    assert -1e-12 <= value.item() <= left + 1e-30 and own.grad.abs().max() <= left + 1e-9
    assert loss(teacher + 0.1 * student, teacher) > value + 1e-9, "it is not blind"


@pytest.mark.parametrize("dtype, scale", [(torch.bfloat16, 1), (torch.float16, 300)])
@pytest.mark.parametrize("name", FORMULAS)
def test_half_precision_is_computed_in_single_also_under_autocast(name, dtype, scale):
    """At the larger scale squares and sums overflow half precision."""
    loss, maps = FORMULAS[name][0], [torch.tensor(a).to(dtype) for a in normal(SHAPE, SHAPE, scale=scale)]
    z = maps[0].clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(z, maps[1])
    value.backward()
    assert value.dtype == torch.float32 and z.grad.isfinite().all()
    assert value.item() == pytest.approx(loss(*(x.double() for x in maps)).item(), rel=1e-3)

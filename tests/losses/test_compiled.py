"""Every method under torch.compile in its default mode, also in bf16 autocast: the same value and gradient."""

import pytest
import torch

from segkd.losses import METHODS, TaskWeighting, Term, create_method, list_methods
from tests.losses.harness import total_loss

NAMES = [name for name in list_methods() if issubclass(METHODS.get(name), (Term, TaskWeighting))]
CASES = [(name, "paper", autocast) for name in NAMES for autocast in (False, True)]
CASES += [(name, "official", False) for name in NAMES if METHODS.get(name).official]


def value_and_gradient(name, variant, info, step, compiled, autocast):
    """Loss of a step and its gradient with respect to the student's feature and classifier, compiled or not."""
    torch.manual_seed(0)
    method = create_method(name, variant)
    method.build(info.student, info.teacher)
    total = lambda step: total_loss(method, step)[0]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):  # around the forward pass alone, as in training
        value = (torch.compile(total) if compiled else total)(step)
    leaves = [step.student.feature, *step.student.classifier, step.student.aux_logits]
    return [value, *torch.autograd.grad(value, leaves, allow_unused=True)]


@pytest.mark.slow
@pytest.mark.parametrize("name, variant, autocast", CASES)
def test_compiled_is_the_same(name, variant, autocast, info, context):
    torch._dynamo.reset()
    plain, compiled = (
        value_and_gradient(name, variant, info, context(torch.float32, step=5), flag, autocast) for flag in (False, True)
    )
    torch.testing.assert_close(plain[0], compiled[0], rtol=2e-4, atol=2e-6)
    for ours, theirs in zip(plain[1:], compiled[1:]):
        assert (ours is None) == (theirs is None)
        if ours is not None and autocast:  # compiled backward passes take the autocast around them: bf16's precision
            assert (ours - theirs).norm() <= 0.02 * ours.norm() + 2e-6
        elif ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-6)

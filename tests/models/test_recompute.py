"""Gradient checkpointing: the same values, gradients, statistics and random draws as without it, and less that is kept."""

import pytest
import torch
from torch import nn

from segkd.models.recompute import recomputed
from tests.models.harness import small

NETWORKS = ("deeplabv3/mobilenet_v2", "pspnet/resnet50", "ocrnet/hrnet_w18_small", "stdc/stdc1", "dinov2/vits14")
SLOW = ("deeplabv3/resnet101", "ocrnet/hrnet_w48", "dinov2/vitb14")


def network(name):
    return small(name, in_channels=4).train()


def step(model, size=(65, 79)):
    """Everything that a step leaves behind: scores, gradients, running statistics, the next random number."""
    torch.manual_seed(1)
    said = model(torch.rand(2, 4, *size))
    shown = [x for x in (said.logits, said.aux_logits, said.detail_logits, *said.stages) if x is not None]
    sum(x.square().mean() for x in shown).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {"logits": said.logits, "draw": torch.rand(1), **dict(model.named_buffers()), **gradients}


@pytest.mark.parametrize("name", [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_no_bit_changes(name):
    plain, lean = network(name), network(name)
    lean.set_grad_checkpointing(True)
    assert lean.state_dict().keys() == plain.state_dict().keys()
    for _ in range(2):
        wanted, found = step(plain), step(lean)
        assert wanted.keys() == found.keys()
        assert [key for key in wanted if not torch.equal(wanted[key], found[key])] == []
    lean.set_grad_checkpointing(False)
    assert not lean.encoder.grad_checkpointing


def kept_bytes(model, size=(96, 128)):
    """Bytes that a forward pass keeps for the backward pass, every storage once and no weights."""
    kept, weights = {}, {p.untyped_storage().data_ptr() for p in model.parameters()}
    pack = lambda t: kept.__setitem__(t.untyped_storage().data_ptr(), t)  # noqa: E731 - alive, so that no place is used twice
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda nothing: None):
        model(torch.rand(2, 4, *size))
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights)


@pytest.mark.parametrize("name", ["fcn/resnet50", "fcn/hrnet_w18_small", "dinov2/vits14"])
def test_less_is_kept(name):
    model = network(name)
    before = kept_bytes(model)
    model.set_grad_checkpointing()
    after = kept_bytes(model)
    assert after < 0.6 * before


def test_random_draws_and_statistics_inside_a_part():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5))
    part = nn.Sequential(*first, nn.Conv2d(8, 2, 1), nn.BatchNorm2d(2, momentum=None))
    images, found = torch.rand(4, 3, 9, 9), []
    state = {key: value.clone() for key, value in part.state_dict().items()}
    for apply in (part, lambda x: recomputed(part, x)):
        part.load_state_dict(state)
        part.zero_grad()
        torch.manual_seed(5)
        out = apply(images)
        out.square().sum().backward()
        left = [*(p.grad for p in part.parameters()), *part.buffers()]
        found.append([out.detach(), torch.rand(1), *(tensor.clone() for tensor in left)])
    assert all(torch.equal(a, b) for a, b in zip(*found))
    assert part[1].num_batches_tracked == part[4].num_batches_tracked == 1
    assert (part[1].momentum, part[4].momentum) == (0.1, None)
    assert "4.num_batches_tracked" in part.state_dict()


def test_without_gradient_it_is_the_plain_call():
    part = nn.BatchNorm2d(3)
    with torch.no_grad():
        assert recomputed(part, torch.rand(2, 3, 4, 4)).grad_fn is None
    assert part.num_batches_tracked == 1


def test_statistics_return_when_the_second_pass_fails():
    class Once(nn.Module):
        calls = 0

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("second")
            return self.norm(x).exp()

    part = Once()
    with pytest.raises(RuntimeError, match="second"):
        recomputed(part, torch.rand(2, 3, 4, 4)).sum().backward()
    assert part.norm.momentum == 0.1 and part.norm.num_batches_tracked == 1

"""STDC: the paper's parameter counts, blocks against their own description, grids at any size, and heads for training only."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segkd.models import complexity, create_model
from segkd.models.deploy import deployed
from segkd.models.encoders.stdc import STDCBlock
from segkd.models.heads.stdc import AttentionRefinement, ContextPath, FeatureFusion
from tests.models.harness import small

# The paper's ImageNet classifier on 1024 maps: 1x1 convolution and norm, linear, norm, linear to 1000 classes, no biases.
CLASSIFIER = 1024 * 1024 + 2 * 1024 + 1024 * 1024 + 2 * 1024 + 1024 * 1000
CLASSIFIER_MACS = 7 * 7 * 1024 * 1024 + 1024 * 1024 + 1024 * 1000


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name, millions, flops", [("stdc1", 8.44, 813), ("stdc2", 12.47, 1446)])
def test_encoder_has_the_papers_counts(name, millions, flops):
    with torch.device("meta"):
        encoder = create_model("stdc", name).encoder.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.empty(1, 3, 224, 224, device="meta"))
    assert round((count(encoder) + CLASSIFIER) / 1e6, 2) == millions
    macs = (counter.get_total_flops() // 2 + CLASSIFIER_MACS) / 1e6
    assert 0.99 * flops < macs < flops  # theirs counts something beyond convolutions and linear layers
    assert encoder.channels == (64, 256, 512, 1024)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_is_what_its_description_says(stride):
    """Written out with functions, from the block's own weights."""
    torch.manual_seed(0)
    block, x = STDCBlock(6, 16, stride).double().eval(), torch.randn(2, 6, 7, 10).double()
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)

    def conv(part, x, **options):
        y = nn.functional.conv2d(x, part[0].weight, padding=part[0].weight.shape[-1] // 2, **options)
        mean, deviation = part[1].running_mean[:, None, None], (part[1].running_var[:, None, None] + 1e-5).sqrt()
        return (y - mean) / deviation

    first = conv(block.first, x).relu()
    down = conv(block.down, first, stride=2, groups=8) if stride == 2 else first
    skip = nn.functional.avg_pool2d(first, 3, 2, 1) if stride == 2 else first
    second = conv(block.others[0], down).relu()
    third = conv(block.others[1], second).relu()
    fourth = conv(block.others[2], third).relu()
    assert [part.shape[1] for part in (skip, second, third, fourth)] == [8, 4, 2, 2]
    torch.testing.assert_close(block(x), torch.cat([skip, second, third, fourth], 1))


def test_attention_refinement_and_fusion():
    torch.manual_seed(0)
    refine, fuse = AttentionRefinement(6, 4).double().eval(), FeatureFusion(10, 8).double().eval()
    x, y = torch.randn(2, 6, 3, 5).double(), torch.randn(2, 4, 3, 5).double()
    map_ = refine.block(x)
    conv, norm, _ = refine.pooled
    share = torch.sigmoid(norm(conv(map_.mean((2, 3), keepdim=True))))
    torch.testing.assert_close(refine(x), map_ * share)
    joined = fuse.block(torch.cat([x, y], 1))
    down, _, up, _ = fuse.attention
    share = torch.sigmoid(up(down(joined.mean((2, 3), keepdim=True)).relu()))
    torch.testing.assert_close(fuse(x, y), joined * (1 + share))


def test_context_flows_from_the_image_to_the_fine_grid():
    torch.manual_seed(0)
    path = ContextPath((6, 8), 4).double().eval()
    maps = [torch.randn(1, n, *size).double() for n, size in ((2, (9, 13)), (3, (5, 7)), (6, (3, 4)), (8, (2, 2)))]
    coarse = path.refine[1](maps[3]) + path.pooled(maps[3].mean((2, 3), keepdim=True))
    rows, columns = [0, 0, 1], [0, 0, 1, 1]  # nearest: floor(i * 2 / 3), floor(i * 2 / 4)
    middle = path.refine[0](maps[2]) + path.smooth[1](coarse[:, :, rows][..., columns])
    rows, columns = [0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2, 3]
    torch.testing.assert_close(path(maps), path.smooth[0](middle[:, :, rows][..., columns]))


@pytest.mark.parametrize("width, channels", [(0.25, (16, 64, 128, 256)), (0.3, (19, 80, 152, 304)), (0.03, (4, 32, 32, 32))])
def test_widths(width, channels):
    model = small("stdc/stdc2", width=width).train()
    assert model.info.stage_channels == channels
    assert tuple(x.shape[1] for x in model(torch.rand(2, 3, 40, 40)).stages) == channels


def test_heads_for_training():
    said = small("stdc/stdc1").train()(torch.rand(2, 3, 37, 52))
    assert said.logits.shape == said.aux_logits.shape == (2, 5, 5, 7) and said.detail_logits.shape == (2, 1, 5, 7)
    model = small("stdc/stdc1", aux=False).train()
    said = model(torch.rand(2, 3, 40, 56))
    assert said.aux_logits is None and said.detail_logits is None and not model.info.has_aux


def test_detail_guidance_reaches_the_first_stages_alone():
    model = small("stdc/stdc1").train()
    model(torch.rand(2, 3, 40, 56)).detail_logits.sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    parts = ("encoder.stem.", "encoder.stages.0.", "detail_head.")
    assert reached == {name for name, _ in model.named_parameters() if name.startswith(parts)}


def test_heads_for_training_are_counted_and_not_deployed():
    with_heads, without = small("stdc/stdc1"), small("stdc/stdc1", aux=False)
    cost, plain = complexity(with_heads, (65, 97)), complexity(without, (65, 97))
    heads = {"aux": with_heads.aux_head, "detail": with_heads.detail_head}
    assert cost["aux_params"] == sum(map(count, heads.values())) == cost["params"] - plain["params"]
    cells = 9 * 13
    assert cost["macs"] - plain["macs"] == cells * (9 * 16 * 8 + 8 * 5 + 9 * 32 * 8 + 8)
    assert plain["aux_params"] == 0 and with_heads.training
    assert not any("aux_head" in key or "detail_head" in key for key in deployed(with_heads).state_dict())

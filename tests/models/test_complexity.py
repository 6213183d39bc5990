"""The cost columns of the papers, digit for digit, and the true count against torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segkd.models import complexity
from tests.models.harness import meta, same, small

# Exact counts of the released code at 19 classes, 1024x2048: parameters, papers' rule, true multiply-adds.
EXACT = {
    "deeplabv3/resnet101": (61_118_950, 2_371_663_953_920, 2_063_346_434_048),
    "deeplabv3/resnet18": (13_607_974, 572_014_002_176, 517_495_390_208),
    "pspnet/resnet18": (12_919_334, 507_346_550_784, 488_507_572_224),
    "deeplabv3/mobilenet_v2": (3_233_171, 128_923_183_104, 106_540_081_152),
}
# Rounded: millions of parameters, giga multiply-adds at 1024x2048 and 512x512, each by the papers' rule and true.
ROUNDED = {
    "deeplabv3/resnet101": (61.119, 2371.66, 2063.35, 384.44, 257.92),
    "deeplabv3/resnet18": (13.608, 572.01, 517.50, 85.99, 64.69),
    "pspnet/resnet18": (12.919, 507.35, 488.51, 67.52, 61.07),
    "deeplabv3/mobilenet_v2": (3.233, 128.92, 106.54, 22.62, 13.32),
    "pspnet/resnet101": (68.072, 2193.81, 2170.93, 279.19, 271.41),
    "pspnet/mobilenet_v2": (2.655, 85.69, 85.60, 10.73, 10.70),
}
# Papers' rule in giga multiply-adds at other sizes and class counts.
OTHERS = {
    ((360, 480), 11): (280.19, 60.95, 45.60, None),
    ((512, 512), 150): (384.71, 86.09, 67.63, 22.69),
    ((512, 2048), 21): (1294.56, 304.97, 260.01, None),
}
TORCHS = (
    "deeplabv3/resnet18", "pspnet/mobilenet_v2", "fcn/resnet50", "ocrnet/hrnet_w18_small", "isanet/resnet18",
    "deeplabv3plus/resnet18", "dinov2/vits14",
)  # fmt: skip


@pytest.mark.parametrize("name", ROUNDED)
def test_counts_of_the_papers(name):
    large, square = (complexity(meta(name), size) for size in ((1024, 2048), (512, 512)))
    exact = large["params"], large["macs_paper"], large["macs"]
    assert exact == EXACT.get(name, exact)
    giga = [round(cost[key] / 1e9, 2) for cost in (large, square) for key in ("macs_paper", "macs")]
    assert (round(large["params"] / 1e6, 3), *giga) == ROUNDED[name]


@pytest.mark.parametrize("size, classes", OTHERS)
def test_other_sizes_and_class_counts(size, classes):
    for name, expected in zip(EXACT, OTHERS[size, classes]):
        if expected is not None:
            assert round(complexity(meta(name, classes=classes), size)["macs_paper"] / 1e9, 2) == expected


def test_auxiliary_head_is_counted_apart():
    assert complexity(meta("deeplabv3/resnet101"), (64, 64))["aux_params"] == 2_364_691
    with_aux, without = (complexity(meta("deeplabv3/resnet18", aux=aux), (64, 64)) for aux in (True, False))
    assert without["aux_params"] == 0 and with_aux["params"] - with_aux["aux_params"] == without["params"]
    assert with_aux["macs"] > without["macs"]


def test_label_channel_costs_what_lad_reports():
    cost = complexity(meta("deeplabv3/resnet18", in_channels=4), (1024, 2048))
    assert cost["params"] == 13_607_974 + 576 and round(cost["macs_paper"] / 1e9, 1) == 572.3


@pytest.mark.parametrize("name", TORCHS)
def test_true_count_is_torchs(name):
    model = meta(name, width=0.25, classes=7).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 65, 97, device="meta"))
    assert 2 * complexity(model, (65, 97))["macs"] == counter.get_total_flops()


def test_attention_is_beyond_the_papers_rule():
    """OCRNet has no dilation, so only regions, likeness and what pixels find."""
    cost, pixels, key = complexity(small("ocrnet/hrnet_w18_small"), (65, 79)), 17 * 20, 32
    assert cost["macs"] - cost["macs_paper"] == pixels * 5 * (64 + key + key)
    assert cost["aux_params"] == 32 * 32 + 2 * 32 + 5 * 32 + 5


def test_model_is_left_as_it_was():
    model = small().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    complexity(model, (64, 64))
    assert all(module.training for module in model.modules()) and same(model.state_dict(), before)
    assert not any(module._forward_hooks for module in model.modules())

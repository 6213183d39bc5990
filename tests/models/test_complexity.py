"""The cost columns of the papers, digit for digit, and the true count against torch's own counter."""

import functools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segkd.models import complexity, create_model

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


@functools.cache
def build(name, classes=19, **options):
    with torch.device("meta"):
        return create_model(*name.split("/"), classes=classes, **options)


@pytest.mark.parametrize("name", EXACT)
def test_exact_counts(name):
    cost = complexity(build(name), (1024, 2048))
    assert (cost["params"], cost["macs_paper"], cost["macs"]) == EXACT[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_rounded_counts(name):
    model = build(name)
    large, square = complexity(model, (1024, 2048)), complexity(model, (512, 512))
    giga = [round(cost[key] / 1e9, 2) for cost in (large, square) for key in ("macs_paper", "macs")]
    assert (round(large["params"] / 1e6, 3), *giga) == ROUNDED[name]


@pytest.mark.parametrize("size, classes", OTHERS)
def test_other_sizes_and_class_counts(size, classes):
    for name, expected in zip(EXACT, OTHERS[size, classes]):
        if expected is not None:
            assert round(complexity(build(name, classes), size)["macs_paper"] / 1e9, 2) == expected


def test_auxiliary_head_is_counted_apart():
    assert complexity(build("deeplabv3/resnet101"), (64, 64))["aux_params"] == 2_364_691
    with_aux = complexity(build("deeplabv3/resnet18"), (64, 64))
    without = complexity(build("deeplabv3/resnet18", aux=False), (64, 64))
    assert without["aux_params"] == 0 and with_aux["params"] - with_aux["aux_params"] == without["params"]
    assert with_aux["macs"] > without["macs"]


def test_label_channel_costs_what_lad_reports():
    model = build("deeplabv3/resnet18", in_channels=4)
    cost = complexity(model, (1024, 2048))
    assert cost["params"] == 13_607_974 + 576 and round(cost["macs_paper"] / 1e9, 1) == 572.3


@pytest.mark.parametrize("name", ["deeplabv3/resnet18", "pspnet/mobilenet_v2", "fcn/resnet50"])
def test_true_count_is_torchs(name):
    model = build(name, width=0.25, classes=7).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 65, 97, device="meta"))
    assert 2 * complexity(model, (65, 97))["macs"] == counter.get_total_flops()


def test_model_is_left_as_it_was():
    model = create_model("deeplabv3", "resnet18", classes=5, width=0.125).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    complexity(model, (64, 64))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value.cpu(), before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())

"""Paper versus code: switches whose effect is known exactly, on small untrained networks."""

import numpy as np
import pytest
import torch

from segkd.analysis import variants
from segkd.data.store import Meta, Packed
from segkd.losses import METHODS, list_methods
from segkd.models import create_model


@pytest.fixture(scope="module")
def witnesses():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (6, 32, 48)).astype(np.uint8)
    meta = Meta("made", "train", (32, 48), tuple(map(str, range(6))), tuple("abcde"), ((0, 0, 0),) * 5, "0")
    packed = Packed(rng.integers(0, 256, (6, 32, 48, 3)).astype(np.uint8), labels, meta, None)
    make = lambda width, channels: create_model("pspnet", "resnet18", in_channels=channels, classes=5, width=width)  # noqa: E731
    student, teacher, label_teacher = make(0.125, 3), make(0.25, 3), make(0.125, 4)
    with torch.no_grad():
        teacher.eval()(torch.zeros(1, 3, 33, 33)).classifier[0].mul_(100)  # sure of itself: RDD's hard sets differ
    return variants.Witnesses(student, teacher, label_teacher, packed, batch_size=2)


@pytest.fixture(scope="module")
def effects(witnesses):
    return variants.variant_effects(witnesses, ("at", "cwd", "ifvd", "kd", "lad", "rdd"))


def line(effects, method, what, other=None):
    found = effects[(effects["method"] == method) & (effects["difference"] == what)]
    return (found if other is None else found[found["other"] == other]).iloc[0]


@pytest.mark.parametrize(
    "method, what, other, factor",
    [("at", "weight", "1000", 0.1), ("ifvd", "weight", "200", 10), ("kd", "reduction", "element_mean", 1 / 5)],
)
def test_a_weight_scales_value_and_gradient_and_turns_nothing(effects, method, what, other, factor):
    found = line(effects, method, what, other)
    assert found["loss ratio"] == pytest.approx(factor, rel=1e-3)
    assert found["gradient ratio"] == pytest.approx(factor, rel=1e-3)
    assert found["gradient cosine"] == pytest.approx(1, abs=1e-5)


def test_the_cross_entropy_form_sums_over_images_and_adds_the_teachers_entropy(effects):
    found = line(effects, "kd", "reduction", "batch_sum")
    assert found["gradient ratio"] == pytest.approx(2, rel=1e-3) and found["loss ratio"] > 2


def test_a_switch_that_cannot_act_does_nothing(effects):
    found = line(effects, "rdd (tse)", "class_weights")  # they belong to the 19 classes of Cityscapes
    assert found[["loss ratio", "gradient ratio", "gradient cosine"]].tolist() == pytest.approx([1, 1, 1])


def test_every_switch_of_every_method_is_listed_with_its_source():
    listed = {(d.part, d.what) for d in variants.switches()}
    official = {(name, key) for name in list_methods() for key in (METHODS.get(name).official or {})}
    assert official <= listed
    assert all(d.source for d in variants.switches() if not d.what.startswith("all"))


def test_table_figure_and_headline(effects):
    html = variants.variants_table(effects).to_html()
    assert "pixel mean → element mean" in html and "cosine" in html
    figure = variants.variants_figure(effects)
    assert len(figure.axes[0].get_yticklabels()) == len(effects)
    assert len(variants.headline(effects)) == 4

"""How methods compose: names, variants, hyper-parameters, and every refusal with the word that helps."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segkd.losses import METHODS, ROW_HYPER, ROWS, create_method
from segkd.losses.class_statistics import ClassStatistics
from segkd.losses.hwd import holistic_weights
from segkd.losses.kd import pixelwise_kl
from segkd.losses.lad import LabelNoise
from segkd.losses.method import Part
from segkd.losses.precision import full_precision
from segkd.losses.rdd import difficulty_mask
from segkd.losses.skd import pairwise_affinity
from segkd.prediction import NetworkInfo
from segkd.registry import UserError

REPORTED = Path(__file__).parents[2] / "data" / "papers" / "reported.csv"


def test_parts_keep_their_order_and_kind():
    method = create_method("rdd+cwd+lad+kd")
    assert method.name == "rdd+cwd+lad+kd" and list(method.terms) == ["cwd", "kd"]
    assert method.weighting.name == "rdd" and method.teacher_kind.name == "lad" and method.needs_teacher


def test_the_baseline_has_no_parts(info, context):
    method = create_method("baseline")
    assert method.name == "baseline" and not method.needs_teacher and method.hyper() == {}
    assert not list(method.build(info.student).parameters())
    step = context()
    step.teacher = None
    assert method.loss(step) == {} and method.task_weight(step) is None and create_method().name == "baseline"


@pytest.mark.parametrize("name, words", [("rdd", "task weighting"), ("lad", "teacher kind")])
def test_at_most_one_weighting_and_one_teacher_kind(name, words, monkeypatch):
    monkeypatch.setitem(METHODS._items, "other", type("Other", (METHODS.get(name),), {}))
    with pytest.raises(UserError, match=f"{name} and other are each a {words}"):
        create_method(f"{name}+other")


def test_hyper_parameters_find_their_part():
    method = create_method("kd+hwd", beta=0.3, kd={"weight": 2, "temperature": 1.5})
    assert method.hyper()["kd"] == {"weight": 2, "temperature": 1.5, "reduction": "pixel_mean"}
    assert method.hyper()["hwd"]["beta"] == 0.3 and method.hyper()["hwd"]["weight"] == 3.0
    assert create_method("hwd", "official").hyper()["hwd"]["mu"] == 1.0
    assert create_method("hwd", "official", mu=0.5).hyper()["hwd"]["mu"] == 0.5


@pytest.mark.parametrize("spec, hyper, words", [
    ("kd+kd", {}, "named twice"),
    ("kdd", {}, "did you mean 'kd'"),
    ("kd+", {}, "unknown method ''"),
    ("kd+baseline", {}, "unknown method 'baseline'"),
    ("CWD", {}, "did you mean 'cwd'"),
    ("kd", {"variant": "oficial"}, "did you mean 'official'"),
    ("kd+hwd", {"weight": 1.0}, r"kd and hwd have 'weight': write kd=\{'weight': 1.0\}"),
    ("hwd", {"bet": 0.1}, "did you mean 'beta'"),
    ("kd", {"kd": {"temprature": 1.0}}, "did you mean 'temperature'"),
    ("kd", {"hwd": {"beta": 0.3}}, "unknown hyper-parameter"),
    ("hwd", {"beta": "0.1"}, "expected float"),
    ("hwd", {"beta": float("nan")}, "expected float"),
    ("hwd", {"beta": 1.0}, "hwd.beta: expected float > 0 and < 1"),
    ("hwd", {"on_logits": 1}, "expected bool"),
    ("hwd", {"weight": True}, "expected float"),
    ("hwd", {"softmax_temperature": "hot"}, "softmax_temperature: expected float > 0 or None, got 'hot'"),
    ("rdd", {"mode": "xr"}, "unknown rdd.mode: 'xr': did you mean 'xor'"),
    ("rdd", {"threshold": 1.2}, "rdd.threshold: expected float from 0 to 1"),
    ("rdd", {"warmup": -0.1}, "rdd.warmup: expected float from 0 to 1"),
    ("rdd", {"min_kept": 100000.0}, "rdd.min_kept: expected float from 0 to 1"),
    ("fakd_cwd", {"var_power": 3}, "one of 1, 2"),
    ("kd", {"weight": -1.0}, "kd.weight: expected float >= 0, got -1.0"),
    ("kd", {"temperature": 0.0}, "kd.temperature: expected float > 0"),
    ("cwd", {"temperature": 0.0}, "cwd.temperature: expected float > 0"),
    ("maskd", {"mask_momentum": 1.0}, "maskd.mask_momentum: expected float >= 0 and < 1"),
    ("cirkd", {"pixel_keys": 0}, "cirkd.pixel_keys: expected int >= 1, got 0"),
    ("skd", {"pool": 0}, "skd.pool: expected int >= 1 or one of 'half', got 0"),
    ("mgd", {"masked": 1.5}, "mgd.masked: expected float from 0 to 1, got 1.5"),
    ("baseline", {"weight": 1.0}, "unknown hyper-parameter of 'baseline'"),
    ("fakd_pd", {"variant": "official"}, "no released code"),
])  # fmt: skip
def test_bad_names_and_hyper_parameters_are_answered_in_one_line(spec, hyper, words):
    with pytest.raises(UserError, match=words) as error:
        create_method(spec, **hyper)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("call, words", [
    (lambda z, y: pixelwise_kl(z, z, reduction="pixel_men"), "'pixel_mean'"),
    (lambda z, y: pairwise_affinity(z, z, "quarter"), "pool='quarter'"),
    (lambda z, y: pairwise_affinity(z, z, 0), "pool=0"),
    (lambda z, y: holistic_weights(z, z, divergence="msq"), "'mse'"),
    (lambda z, y: holistic_weights(z, z, y, count="sqr"), "'sqrt'"),
    (lambda z, y: difficulty_mask(y > 0, y > 0, "xorr"), "'xor'"),
    (lambda z, y: ClassStatistics(3, 4, "ful"), "'full'"),
    (lambda z, y: LabelNoise(21, void="zeros"), "'zero'"),
    (lambda z, y: LabelNoise(21, codes=[0.0] * 22), "22 codes for 21 classes"),
])  # fmt: skip
def test_bad_options_of_formulas_are_answered(call, words):
    with pytest.raises(UserError, match=words):
        call(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64))


def test_pairs_of_networks_that_do_not_fit_are_answered(info):
    with pytest.raises(UserError, match="give a teacher for the student 'student'"):
        create_method("kd").build(info.student)
    with pytest.raises(UserError, match="'other' has 19 classes and student 'student' 4"):
        create_method("kd").build(info.student, NetworkInfo("other", 19, 3, 8, (8,), True))
    with pytest.raises(UserError, match="student.*teacher"):
        create_method("fakd_cwd").build(replace(info.student, feature_channels=None), info.teacher)


def test_every_part_hears_of_preparation_and_of_the_step(info, context, monkeypatch):
    heard = []
    monkeypatch.setattr(Part, "prepare", lambda self, teacher, data: heard.append((self.name, "prepare")))
    after = lambda self, step: heard.append((self.name, step.teacher.logits.requires_grad))  # noqa: E731
    monkeypatch.setattr(Part, "after_step", after)
    method = create_method("kd+rdd")
    method.prepare(torch.nn.Identity(), None)
    method.after_step(context())
    assert heard == [("kd", "prepare"), ("rdd", "prepare"), ("kd", False), ("rdd", False)]


def test_full_precision_widens_nested_tensors_and_switches_autocast_off():
    @full_precision
    def formula(pair, scale=1.0):
        assert not torch.is_autocast_enabled("cpu")
        return pair[0] @ pair[1] * scale

    one = torch.ones(2, 2, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert formula((one, one), scale=2.0).dtype == torch.float32
    assert formula(pair=(one.double(), one.double())).dtype == torch.float64


def test_rows_cover_every_method_that_the_papers_report():
    with REPORTED.open(newline="") as file:
        reported = {(row["paper"], row["method"]) for row in csv.DictReader(file)}
    papers = {key for key in ROWS if key[0] != "controls"}
    assert papers == reported and set(ROW_HYPER) <= set(ROWS)
    controls = {method for paper, method in set(ROWS) - papers}
    assert controls == {"longer", "untrained_teacher", "shuffled_teacher"}

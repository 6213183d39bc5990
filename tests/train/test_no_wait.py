"""On a pretended GPU (conftest.py): each method's step, batches, evaluation and pages give the CPU's values, and a step waits once."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segkd.analysis import activation, boundary, channels, difficulty, features, layercam, side_by_side, stability, variants
from segkd.config import RunConfig
from segkd.data.augment import augment
from segkd.data.resident import Resident
from segkd.losses import list_methods
from segkd.losses.cirkd import MemoryBank, cross_image_kl
from segkd.losses.class_statistics import ClassStatistics
from segkd.losses.cross_entropy import task_loss
from segkd.losses.cwd import channelwise_kl
from segkd.losses.fakd import augmented_pixelwise
from segkd.losses.kd import pixelwise_kl
from segkd.losses.lad import LabelNoise
from segkd.losses.rdd import hard_pixels
from segkd.models.deploy import fold_norms
from segkd.prediction import IGNORE, Prediction
from segkd.train import evaluate, optim
from segkd.train.runtime import new_tensors
from segkd.train.teacher import Teacher
from segkd.train.trainee import Trainee, build_network, method_of
from tests.train.harness import NETWORK, PLAIN, Split, scheduled

THERE = torch.device("meta")


def there(tensor):
    return tensor.to(THERE, non_blocking=True)


CLASSES, SIZE = 5, (48, 64)
CONFIG = scheduled(PLAIN, average=0.9)
OPTIONS = {  # so that the device's own draws are of no account
    "cirkd": {"cirkd": {"pixels_per_class": 64, "pixel_size": 300, "region_size": 30, "pixel_keys": 10**6, "region_keys": 10**6}},
    "lad+cwd": {"lad": {"alpha": 0.0, "teaching_alpha": 0.0}}, "fakd_pd": {"fakd_pd": {"covariance": "full"}},
}  # fmt: skip
METHODS = ["baseline", "lad+cwd", *(name for name in list_methods() if name != "lad")]
OFFICIAL = ["rdd", "skd", "mgd", "lad+cwd", "cirkd"]
FAST = {("lad+cwd", "paper"), ("cirkd", "paper"), ("fakd_pd", "paper"), ("rdd", "official"), ("mgd", "paper")}
CASES = [*((m, "paper") for m in METHODS), *((m, "official") for m in OFFICIAL)]


def network(width=0.125, extra_channels=0):
    return build_network(dataclasses.replace(CONFIG, network=dataclasses.replace(NETWORK, width=width, extra_channels=extra_channels)), CLASSES)


def given():
    draws = torch.Generator().manual_seed(3)
    images = torch.rand(2, 3, *SIZE, generator=draws)
    labels = torch.randint(0, CLASSES, (2, *SIZE), generator=draws).repeat_interleave(8, 1)[:, : SIZE[0]]
    labels[:, :5] = IGNORE
    return images, labels


def steps(where, method, variant):
    """Two steps; the second one's row, and the run."""
    config = dataclasses.replace(scheduled(CONFIG, precision="float64"), method=method, variant=variant, hyper=OPTIONS.get(method, {}), teacher=RunConfig())
    kind = method_of(config).teacher_kind
    model = network(0.1875, 0 if kind is None else 1).double()
    if kind is not None:
        kind.build(model.info, None)
    fold_norms(model.eval())
    teacher = Teacher(model.to(where), kind, 0)
    trainee = Trainee(config, CLASSES, model.info, where)
    if "skd" in trainee.modules:  # a module that goes to a GPU keeps its parameters, one that goes here gets others
        adversary = trainee.modules["skd"]
        adversary.optimiser.param_groups[0]["params"] = list(adversary.discriminator.parameters())
    images, labels = (x if where.type == "cpu" else there(x) for x in given())
    for step in range(2):
        if isinstance(waits := getattr(steps, "waits", None), list):
            waits.clear()  # tables of the first step are kept
        row = trainee.train_step(images, labels, teacher(images, labels, step))
    return row, trainee


@pytest.mark.parametrize("method, variant", [c if c in FAST else pytest.param(*c, marks=pytest.mark.slow) for c in CASES])
def test_a_step_waits_once_and_gives_what_the_cpu_gives(method, variant, device, monkeypatch):
    with new_tensors(torch.float64):  # in float32 a ReLU may fall to the other side
        wanted, run = steps(torch.device("cpu"), method, variant)
        monkeypatch.setattr(steps, "waits", device.waits, raising=False)
        found, other = steps(THERE, method, variant)
    assert device.waits == ["copy"], "the one of `_finite`"
    assert found == pytest.approx(wanted, rel=1e-8, abs=1e-10)
    weights = other.averaged.module.state_dict()
    for name, value in run.averaged.module.state_dict().items():
        assert torch.allclose(weights[name].here, value, rtol=1e-7, atol=1e-10), name


@pytest.mark.parametrize("legacy", [False, True])
def test_the_queues_hold_what_the_rules_say(legacy, device):
    """Every stored pixel is one of its class (or, as published, one of the image's first), in the slots of the CPU."""
    draws = torch.Generator().manual_seed(0)
    feature, labels = torch.randn(4, 6, 5, 7, generator=draws), torch.randint(0, 3, (4, 5, 7), generator=draws)
    labels[labels == 2] = IGNORE
    here = MemoryBank(3, 6, pixel_size=40, region_size=5, pixels_per_class=9, legacy_queue=legacy)
    apart = MemoryBank(3, 6, pixel_size=40, region_size=5, pixels_per_class=9, legacy_queue=legacy)
    apart.load_state_dict(here.state_dict())
    start, there_bank = apart.pixels.clone(), apart.to(THERE)
    for turn in range(3):
        here.update(feature, labels, torch.Generator().manual_seed(turn))
        device.waits.clear()
        there_bank.update(there(feature), there(labels), torch.Generator().manual_seed(turn))
        assert device.waits == []
    for name in ("pixel_pointer", "region_pointer"):
        assert torch.equal(getattr(there_bank, name).here, getattr(here, name)), name
    assert torch.allclose(there_bank.regions.here, here.regions, atol=1e-6)
    vectors = torch.nn.functional.normalize(feature.flatten(2).transpose(1, 2), dim=2)
    allowed = [vectors[:, :40].flatten(0, 1) if legacy else vectors[labels.flatten(1) == c] for c in range(3)]
    for c in range(3):
        new = (there_bank.pixels.here[c] != start[c]).any(1)
        gaps = torch.cdist(there_bank.pixels.here[c][new], allowed[c]).amin(1) if new.any() else torch.zeros(1)
        assert new.sum() == (0 if c == 2 else 40) and gaps.max() < 1e-3
    assert not torch.equal(there_bank.pixels.here[:2], here.pixels[:2])  # drawn otherwise


@pytest.mark.parametrize("sizes", [None, torch.tensor([[40, 60], [33, 60], [40, 41]])])
def test_a_batch_waits_for_nothing(sizes, device):
    """All options of the augmentation, images of their own sizes too: the numbers of the CPU up to the way of interpolating."""
    draws = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, 40, 60, 3), generator=draws, dtype=torch.uint8)
    labels = torch.randint(0, 3, (3, 5, 6), generator=draws, dtype=torch.uint8).repeat_interleave(8, 1).repeat_interleave(10, 2)
    labels[0, :36] = 1  # one class rules: its crop is drawn again
    options = {"continuous": True, "cat_max_ratio": 0.75, "photometric": True, "sizes": sizes}
    make = lambda *batch: augment(*batch, torch.Generator().manual_seed(2), (32, 32), **options)
    wanted = make(images, labels)
    images, labels = there(images), there(labels)
    device.waits.clear()
    found = make(images, labels)
    assert device.waits == []
    assert torch.equal(found[1].here, wanted[1]) and torch.allclose(found[0].here, wanted[0], atol=2e-4)


@pytest.mark.parametrize("sizes", [[(48, 64)] * 11, [(48, 64), (56, 50), (33, 70)]])
def test_a_split_is_scored_there_with_two_copies(sizes, device, monkeypatch):
    split, model = Split(sizes), network().eval()
    wanted = evaluate.evaluate_each(model, split)
    resident = Resident(split, THERE)
    monkeypatch.setattr(evaluate, "take", lambda packed, index, where: resident.take(index))
    there_model = model.to(THERE)
    evaluate.evaluate_each(there_model, split)
    device.waits.clear()
    found = evaluate.evaluate_each(there_model, split)
    assert device.waits == ["copy", "copy"]  # the matrix, the counts of each image
    assert all(torch.equal(a, b) for a, b in zip(found, wanted)) and found[0].sum() == sum(int((label != IGNORE).sum()) for _, label in split.items)


def test_the_mean_of_weights_equals_torchs(device):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    ours, theirs = optim.Mean(model), torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    for _ in range(4):
        model(torch.randn(5, 3))
        with torch.no_grad():
            model[0].weight.mul_(1.1)
        ours.update_parameters(model), theirs.update_parameters(model)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_kept_pixels_and_noisy_bounds_do_not_depend_on_the_device(device):
    draws = torch.Generator().manual_seed(0)
    sure = torch.rand(2, 9, 9, generator=draws, dtype=torch.float64)
    for kept in (1, 60, 10**6):
        assert torch.equal(hard_pixels(there(sure), 0.2, kept).here, hard_pixels(sure, 0.2, kept))
    feature, scores = (torch.randn(2, n, 6, 7, generator=draws) for n in (8, CLASSES))
    classifier = torch.randn(CLASSES, 8, generator=draws), torch.zeros(CLASSES)
    labels = torch.randint(0, CLASSES, (2, 6, 7), generator=draws)
    labels[0, 0] = IGNORE
    for variance in (1.0, 12.0):  # the second lies beyond what float32 holds: the CPU goes class by class
        here = ClassStatistics(CLASSES, 8)
        here.update(feature * variance, labels)
        wanted = augmented_pixelwise(feature, classifier, scores, labels, here, 1.0)
        apart = here.to(THERE)
        found = augmented_pixelwise(there(feature), tuple(map(there, classifier)), there(scores), there(labels), apart, 1.0)
        assert found.tolist() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.slow
def test_pages_measure_there_what_they_measure_here(device):
    split = Split([SIZE] * 5)
    split.images, split.labels = (np.stack([item[i].numpy() for item in split.items]) for i in (0, 1))
    split.classes, split.palette = tuple("abcde"), [(c, c, c) for c in range(CLASSES)]
    image, label, noise, bins = split.images[0], split.labels[0], LabelNoise(CLASSES, 0.0), boundary.split_bins(split)
    x, everywhere = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255, np.ones(SIZE, bool)

    def measured(where):
        student, teacher, assisted = (network(*net).eval().to(where) for net in ((0.125, 0), (0.1875, 0), (0.125, 1)))
        yield activation.activation_map(student, image)
        yield activation.inside_outside(student, split, ["a", "b"])
        yield boundary.boundary_iou(student, split)
        yield channels.divergence_ratios(student, teacher, split)
        yield difficulty.near_boundaries(student, split, bins)
        yield difficulty.teacher_maps(teacher, image, label, split.palette)
        yield difficulty.training_cases({100: student}, teacher, split)
        yield difficulty.training_maps({100: student}, teacher, image, label, split.palette)
        yield difficulty.weights_by_outcome(student, split)
        yield features.pixel_features(student, split, 5)
        yield layercam.input_ablation(assisted, split, noise)
        yield layercam.layercam(assisted, image, label, noise, 1).image_share
        yield side_by_side.stage_layercam(student, x.clone(), everywhere, 1)
        yield side_by_side.look(student, x, label)
        yield stability.noise_sensitivity(assisted, split, noise)
        yield variants.variant_effects(variants.Witnesses(student, teacher, assisted, split, 2), ["cwd", "at"])

    for here, apart in zip(measured(torch.device("cpu")), measured(THERE), strict=True):
        assert str(here) == str(apart)


def begun(device, formula, *tensors):
    """What a formula, forward and backward for the first of its tensors, begins on the device."""
    leaf, *others = (there(x) for x in tensors)
    leaf.requires_grad_(True)
    device.launches = 0
    formula(leaf, *others).backward()
    return device.launches


def test_nothing_is_begun_beyond_the_plain_formula(device):
    """KD and CWD, which by their many small kernels took 1.7 and 2 times as long as it on a GPU; of CIRKD's mini-batch term
    and of the task loss there are no more kernels for more pixels, or more images."""
    draws = torch.Generator().manual_seed(0)
    scores = [torch.randn(2, 5, 6, 7, generator=draws) for _ in range(2)]
    plain = lambda dim: lambda s, t: F.kl_div((s / 4).log_softmax(dim), (t / 4).log_softmax(dim), log_target=True, reduction="sum") * 16 / 10
    assert begun(device, lambda s, t: pixelwise_kl(s, t, 4.0), *scores) <= begun(device, plain(1), *scores)
    assert begun(device, channelwise_kl, *scores) <= begun(device, lambda s, t: plain(2)(s.flatten(2), t.flatten(2)), *scores)
    features = [torch.randn(2, 4, 40, 48, generator=draws) for _ in range(2)]  # 3840 pixels: 7 blocks on a CPU
    few, many = ([x[..., :side, :side] for x in features] for side in (4, 40))
    assert begun(device, cross_image_kl, *few) == begun(device, cross_image_kl, *many)
    logits, labels = torch.randn(6, 5, 6, 7, generator=draws), torch.randint(0, 5, (6, 48, 56), generator=draws)
    task = lambda z, y: task_loss(Prediction(z), y)["task"]
    _, few, many = (begun(device, task, logits[:count], labels[:count]) for count in (1, 2, 6))  # the first makes tables that are kept
    assert few == many < 45

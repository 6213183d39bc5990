"""A pretended GPU: tensors that say they are on another device and are computed on the CPU. What would wait for it is counted.

So the code that a GPU takes runs here, with its values: each method's step, batches, evaluation. Its device is called meta.
"""

import contextlib
import dataclasses
import sys

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from segkd.analysis import activation, boundary, channels, difficulty, features, layercam, side_by_side, stability, variants
from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.data.augment import augment
from segkd.data.resident import Resident
from segkd.losses import list_methods
from segkd.losses.cirkd import MemoryBank
from segkd.losses.class_statistics import ClassStatistics
from segkd.losses.fakd import augmented_pixelwise
from segkd.losses.lad import LabelNoise
from segkd.losses.rdd import hard_pixels
from segkd.models.deploy import fold_norms
from segkd.prediction import IGNORE
from segkd.train import evaluate, optim
from segkd.train.teacher import Teacher
from segkd.train.trainee import Trainee, build_network, method_of

aten = torch.ops.aten
THERE = torch.device("meta")
ASKS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.bincount, aten._unique2, aten.unique_dim, aten.equal, aten.is_nonzero}
INDEX = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}


class There(torch.Tensor):
    """A tensor of the pretended device; its values are ``here``."""

    @staticmethod
    def __new__(cls, here):
        shape = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype, "device": THERE}
        return torch.Tensor._make_wrapper_subclass(cls, here.shape, requires_grad=False, **shape)

    def __init__(self, here):
        self.here = here

    def tolist(self):
        return self.cpu().tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of the device")


class Device(TorchDispatchMode):
    """Computes what is there, and notes in ``waits`` what a GPU would be waited for."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        there, to = [x for x in tensors if isinstance(x, There)], kwargs.get("device")
        if not there and (to is None or torch.device(to) != THERE):
            return func(*args, **kwargs)
        kwargs = kwargs | ({} if to is None else {"device": torch.device("cpu")})
        args, kwargs, mine = *tree_map_only(There, lambda x: x.here, (args, kwargs)), (args, kwargs)
        if func is aten._to_copy.default and to is not None:
            across = bool(there) != (torch.device(to) == THERE)
            if across and not (kwargs.get("non_blocking") and not there):
                self.waits.append("copy")
            found = func(*args, **kwargs)
            return There(found) if torch.device(to) == THERE else found
        apart = [x for x in tensors if not isinstance(x, There) and x.dim()]
        if func is aten.copy_.default and apart:
            self.waits.append("copy")
        elif apart:
            raise AssertionError(f"{func}: tensors of the CPU and of the device")
        asks = func.overloadpacket in ASKS or (func.overloadpacket is aten.repeat_interleave and kwargs.get("output_size") is None)
        if asks or (func.overloadpacket in INDEX and any(i is not None and i.dtype == torch.bool for i in args[1])):
            self.waits.append(str(func))
        if func is aten.histc.default and not args[0].is_floating_point():  # the CPU has none for whole numbers
            values, bins, low, high = args
            assert (low, high) == (0, bins)
            return There(torch.bincount(values, minlength=bins))
        return self._returned(func, func(*args, **kwargs), *mine)

    @staticmethod
    def _returned(func, found, args, kwargs):
        """What was changed in place as it was given, all else as tensors of the device."""
        schema = func._schema
        given = {a.name: value for a, value in zip(schema.arguments, args)} | kwargs
        written = {tuple(a.alias_info.before_set): given.get(a.name) for a in schema.arguments if a.alias_info and a.alias_info.is_write}
        wrap = lambda x: tree_map_only(torch.Tensor, lambda t: t if isinstance(t, There) else There(t), x)
        back = lambda r, x: written[tuple(r.alias_info.before_set)] if r.alias_info and r.alias_info.is_write else wrap(x)
        if len(schema.returns) == 1:
            return back(schema.returns[0], found)
        return tuple(back(r, x) for r, x in zip(schema.returns, found)) if schema.returns else None


class Generator(torch.Generator):
    """One of the CPU, wherever it is said to be."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu")


@pytest.fixture
def device(monkeypatch):
    """The pretended device, while the test runs."""
    modules = [sys.modules[f"torch.optim.{name}"] for name in ("optimizer", "sgd", "adam")]
    plain, kinds = torch.autocast, modules[0]._get_fused_kernels_supported_devices
    autocast = lambda kind, *a, **k: contextlib.nullcontext() if kind == "meta" else plain(kind, *a, **k)
    monkeypatch.setattr(torch, "autocast", autocast)
    for module in modules:
        monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: [*kinds(), "meta"], raising=False)
    monkeypatch.setattr(torch, "Generator", Generator)
    with Device() as found:
        yield found


def there(tensor):
    return tensor.to(THERE, non_blocking=True)


CLASSES, SIZE = 5, (48, 64)
SCHEDULE = Schedule(steps=6, batch_size=2, lr=0.02, validations=2, average=0.9)
NET = NetworkConfig("pspnet/resnet18", 0.125)
OPTIONS = {  # so that the device's own draws are of no account
    "cirkd": {"cirkd": {"pixels_per_class": 64, "pixel_size": 300, "region_size": 30, "pixel_keys": 10**6, "region_keys": 10**6}},
    "lad+cwd": {"lad": {"alpha": 0.0, "teaching_alpha": 0.0}}, "fakd_pd": {"fakd_pd": {"covariance": "full"}},
}  # fmt: skip
METHODS = ["baseline", "lad+cwd", *(name for name in list_methods() if name != "lad")]
OFFICIAL = ["rdd", "skd", "mgd", "lad+cwd", "cirkd"]
FAST = {("lad+cwd", "paper"), ("cirkd", "paper"), ("fakd_pd", "paper"), ("rdd", "official"), ("mgd", "paper")}
CASES = [*((m, "paper") for m in METHODS), *((m, "official") for m in OFFICIAL)]


def given():
    draws = torch.Generator().manual_seed(3)
    images = torch.rand(2, 3, *SIZE, generator=draws)
    labels = torch.randint(0, CLASSES, (2, *SIZE), generator=draws).repeat_interleave(8, 1)[:, : SIZE[0]]
    labels[:, :5] = IGNORE
    return images, labels


def steps(where, method, variant):
    """Two steps; the second one's row, and the run."""
    config = RunConfig(DataConfig(), NET, SCHEDULE, method=method, variant=variant, hyper=OPTIONS.get(method, {}), teacher=RunConfig())
    kind = method_of(config).teacher_kind
    model = build_network(RunConfig(DataConfig(), dataclasses.replace(NET, width=0.1875, extra_channels=0 if kind is None else 1), SCHEDULE), CLASSES)
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
    wanted, run = steps(torch.device("cpu"), method, variant)
    monkeypatch.setattr(steps, "waits", device.waits, raising=False)
    found, other = steps(THERE, method, variant)
    assert device.waits == ["copy"], "the one of `_finite`"
    assert found == pytest.approx(wanted, rel=2e-4, abs=1e-6)
    weights = other.averaged.module.state_dict()
    for name, value in run.averaged.module.state_dict().items():
        assert torch.allclose(weights[name].here, value, rtol=1e-3, atol=2e-5), name


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


def test_a_batch_waits_for_nothing(device):
    """All options of the augmentation, images of their own sizes too: the numbers of the CPU up to the way of interpolating."""
    draws = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, 40, 60, 3), generator=draws, dtype=torch.uint8)
    labels = torch.randint(0, 3, (3, 5, 6), generator=draws, dtype=torch.uint8).repeat_interleave(8, 1).repeat_interleave(10, 2)
    labels[0, :36] = 1  # one class rules: its crop is drawn again
    options = {"continuous": True, "cat_max_ratio": 0.75, "photometric": True, "sizes": torch.tensor([[40, 60], [33, 60], [40, 41]])}
    make = lambda *batch: augment(*batch, torch.Generator().manual_seed(2), (32, 32), **options)
    wanted = make(images, labels)
    images, labels = there(images), there(labels)
    device.waits.clear()
    found = make(images, labels)
    assert device.waits == []
    assert torch.equal(found[1].here, wanted[1]) and torch.allclose(found[0].here, wanted[0], atol=2e-4)


class Split:
    """Images of their own sizes, or of one."""

    num_classes = CLASSES

    def __init__(self, sizes):
        draws = torch.Generator().manual_seed(0)
        self.sizes, self.size = np.array(sizes), None if len(set(sizes)) > 1 else sizes[0]
        self.items = [(torch.randint(0, 256, (*s, 3), generator=draws, dtype=torch.uint8), torch.randint(0, CLASSES, s, generator=draws, dtype=torch.uint8)) for s in sizes]
        self.sizes = None if self.size else self.sizes

    def __len__(self):
        return len(self.items)

    def take(self, index):
        high, wide = np.array([self.items[i][1].shape for i in index]).max(0)
        images, labels = torch.zeros(len(index), high, wide, 3, dtype=torch.uint8), torch.full((len(index), high, wide), IGNORE, dtype=torch.uint8)
        for place, i in enumerate(index):
            (h, w), (image, label) = self.items[i][1].shape, self.items[i]
            images[place, :h, :w], labels[place, :h, :w] = image, label
        return images, labels, None if self.size else torch.from_numpy(self.sizes[index])


@pytest.mark.parametrize("sizes", [[(48, 64)] * 11, [(48, 64), (56, 50), (33, 70)]])
def test_a_split_is_scored_there_with_two_copies(sizes, device, monkeypatch):
    split, model = Split(sizes), build_network(RunConfig(DataConfig(), NET, SCHEDULE), CLASSES).eval()
    wanted = evaluate.evaluate_each(model, split)
    resident = Resident(split, THERE)
    monkeypatch.setattr(evaluate, "take", lambda packed, index, where: resident.take(index))
    there_model = model.to(THERE)
    evaluate.evaluate_each(there_model, split)
    device.waits.clear()
    found = evaluate.evaluate_each(there_model, split)
    assert device.waits == ["copy", "copy"]  # the matrix, the counts of each image
    assert all(torch.equal(a, b) for a, b in zip(found, wanted)) and found[0].sum() == sum(h * w for h, w in sizes)


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
        nets = [dataclasses.replace(NET, width=w, extra_channels=e) for w, e in ((0.125, 0), (0.1875, 0), (0.125, 1))]
        student, teacher, assisted = (build_network(RunConfig(DataConfig(), net, SCHEDULE), CLASSES).eval().to(where) for net in nets)
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
        yield side_by_side.layercam(student, x.clone(), everywhere, 1)
        yield side_by_side.look(student, x, label)
        yield stability.noise_sensitivity(assisted, split, noise)
        yield variants.variant_effects(variants.Witnesses(student, teacher, assisted, split, 2), ["cwd", "at"])

    for here, apart in zip(measured(torch.device("cpu")), measured(THERE), strict=True):
        assert str(here) == str(apart)

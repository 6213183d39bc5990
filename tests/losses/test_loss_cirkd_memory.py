"""CIRKD's memory: what an update stores and where, for the right and the published indexing, and what is sampled."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from segkd.losses.cirkd import MemoryBank
from segkd.prediction import IGNORE
from tests.losses.harness import examples

QUEUES = ("pixels", "regions")


def unit(vectors):
    return vectors / np.sqrt((vectors**2).sum(-1, keepdims=True))


def slots(pointer, count, size):
    """The slots a write of ``count`` vectors fills, the last ones when it reaches the end, and the next pointer."""
    if pointer + count >= size:
        return list(range(size - count, size)), 0
    return list(range(pointer, pointer + count)), pointer + count


class Replay:
    """The rules by loops: the region stored in each written slot, and the pixels that each write may choose from."""

    def __init__(self, classes, pixel_size, region_size, per_class, legacy):
        self.sizes, self.per_class, self.legacy = (pixel_size, region_size), per_class, legacy
        self.pointers = np.zeros((2, classes), int)
        self.regions, self.candidates = {}, {}

    def update(self, feature, labels):
        for image, truth in zip(feature, labels):
            vectors = unit(np.array([image[:, y, x] for y, x in np.ndindex(truth.shape)]))
            for k in sorted(set(truth.ravel()) - {IGNORE}):
                own = [v for v, y in zip(vectors, truth.ravel()) if y == k]
                for slot in self.write(1, k, 1):
                    self.regions[k, slot] = unit(sum(own) / len(own))
                choice = vectors[: len(own)] if self.legacy else own
                for slot in self.write(0, k, min(self.per_class, len(own))):
                    self.candidates[k, slot] = choice

    def write(self, queue, k, count):
        filled, self.pointers[queue, k] = slots(self.pointers[queue, k], count, self.sizes[queue])
        return filled


def batch(seed=0, classes=3, images=2, grid=(4, 5), present=None):
    rng = np.random.default_rng(seed)
    labels = rng.choice([*range(classes if present is None else present), IGNORE], (images, *grid))
    return rng.standard_normal((images, 3, *grid)), labels


def bank(classes=3, pixel_size=40, region_size=4, seed=0, **options):
    torch.manual_seed(seed)
    return MemoryBank(classes, 3, pixel_size, region_size, **options)


def update(memory, feature, labels, seed=0):
    memory.update(torch.tensor(feature), torch.tensor(labels), generator=torch.Generator().manual_seed(seed))


def same(one, other):
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@examples(
    legacy=st.booleans(),
    per_class=st.integers(1, 6),
    spare=st.integers(0, 9),
    region_size=st.integers(1, 4),
    present=st.integers(0, 3),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 99),
)
def test_updates_follow_the_rules(legacy, per_class, spare, region_size, present, grid, seed):
    size = per_class + spare
    memory = bank(3, size, region_size, pixels_per_class=per_class, legacy_queue=legacy)
    start, replay = copy.deepcopy(memory), Replay(3, size, region_size, per_class, legacy)
    for turn in range(3):
        feature, labels = batch(seed + turn, present=present, grid=grid)
        update(memory, feature, labels, seed + turn)
        replay.update(feature, labels)
    np.testing.assert_array_equal(memory.pixel_pointer.numpy(), replay.pointers[0])
    np.testing.assert_array_equal(memory.region_pointer.numpy(), replay.pointers[1])
    for place in np.ndindex(3, region_size):
        expected = replay.regions.get(place, start.regions[place].numpy())
        np.testing.assert_allclose(memory.regions[place].numpy(), expected, atol=1e-6)
    for place in np.ndindex(3, size):
        stored, choice = memory.pixels[place].numpy(), replay.candidates.get(place, [start.pixels[place].numpy()])
        assert min(np.abs(stored - vector).max() for vector in choice) < 1e-6, "a pixel of another class"
    assert len(torch.unique(memory.pixels.flatten(0, 1), dim=0)) == 3 * size or legacy, "a pixel stored twice"


def test_starts_with_random_unit_vectors():
    memory = bank(4, 30, 20)
    assert memory.pixels.shape == (4, 30, 3) and memory.regions.shape == (4, 20, 3) and not list(memory.parameters())
    for queue in (memory.pixels, memory.regions):
        assert queue.dtype == torch.float32 and queue.flatten(0, 1).mean(0).norm() < 0.5, "the vectors point everywhere"
        torch.testing.assert_close(queue.norm(dim=-1), torch.ones(queue.shape[:2]))


@pytest.mark.parametrize("legacy", [False, True])
def test_fewer_than_sixteen_pixels_are_all_stored(legacy):
    feature, _ = batch(images=1)
    labels = np.zeros((1, 4, 5), int)
    labels[0, 3] = 2  # the last five grid positions
    memory = bank(legacy_queue=legacy)
    update(memory, feature, labels)
    vectors = unit(feature[0].reshape(3, -1).T)
    expected = vectors[:5] if legacy else vectors[-5:]  # the bug takes the first five, which are of class 0
    order = lambda v: v[np.argsort(v[:, 0])]
    np.testing.assert_allclose(order(memory.pixels[2, :5].numpy()), order(expected), atol=1e-6)
    assert memory.pixel_pointer.tolist() == [15, 0, 5] and memory.region_pointer.tolist() == [1, 0, 1]


def test_a_write_that_reaches_the_end_takes_the_last_slots():
    memory = bank(1, pixel_size=10, region_size=2, pixels_per_class=4)
    pointers, images = [], [batch(seed, images=1)[0] for seed in range(3)]
    for feature in images:
        update(memory, feature, np.zeros((1, 4, 5), int))
        pointers.append((memory.pixel_pointer.item(), memory.region_pointer.item()))
    assert pointers == [(4, 1), (8, 0), (0, 1)]
    sources = [unit(feature[0].reshape(3, -1).T) for feature in images]
    gaps = [[np.abs(source - v).max(1).min() for source in sources] for v in memory.pixels[0].numpy()]
    assert np.argmin(gaps, 1).tolist() == [0] * 4 + [1] * 2 + [2] * 4 and np.min(gaps, 1).max() < 1e-6
    regions = [unit(source.mean(0)) for source in sources]
    np.testing.assert_allclose(memory.regions[0].numpy(), [regions[2], regions[1]], atol=1e-6)


def test_length_of_the_features_does_not_count():
    feature, labels = batch()
    memories = [bank(), bank()]
    lengths = np.random.default_rng(5).uniform(0.5, 5, (2, 1, 4, 5))
    for memory, scale in zip(memories, (1, lengths)):
        update(memory, feature * scale, labels)
    for name in QUEUES:
        torch.testing.assert_close(getattr(memories[0], name), getattr(memories[1], name))


def test_labels_reach_the_grid_by_nearest():
    feature, labels = batch()
    fine = np.zeros((2, 12, 15), int)
    fine[:, ::3, ::3] = labels  # floor sampling meets these and no other
    memories = [bank(), bank()]
    for memory, given in zip(memories, (labels, fine)):
        update(memory, feature, given)
    assert same(*memories)


@pytest.mark.parametrize(
    "classes, pixel_keys, region_keys",
    [(19, 4104, 1026), (21, 4116, 1029), (11, 4103, 1034), (150, 4200, 1050), (182, 4186, 1092)],
)
def test_keys_are_the_same_random_slots_of_every_class(classes, pixel_keys, region_keys):
    sizes = pixel_keys // classes + 5, region_keys // classes + 5
    memory = MemoryBank(classes, 2, *sizes)
    for queue in (memory.pixels, memory.regions):  # each vector says where it lies
        queue[..., 0], queue[..., 1] = torch.arange(classes)[:, None], torch.arange(queue.shape[1])
    keys = memory.sample(generator=torch.Generator().manual_seed(0))
    for key, count, size in zip(keys, (pixel_keys, region_keys), sizes):
        assert key.shape == (count, 2)
        chosen = [sorted(key[key[:, 0] == k, 1].tolist()) for k in range(classes)]
        assert all(c == chosen[0] for c in chosen) and len(set(chosen[0])) == count // classes
        assert chosen[0] != list(range(count // classes)) and max(chosen[0]) < size


def test_draws_follow_the_generator_alone():
    feature, labels = batch(grid=(9, 9))
    memories, keys, before = [bank(), bank(), bank()], [], torch.get_rng_state()
    for memory, seed in zip(memories, (3, 3, 4)):
        update(memory, feature, labels, seed)
        keys.append(memory.sample(torch.Generator().manual_seed(seed), 20, 6))
    assert torch.equal(torch.get_rng_state(), before), "the global generator was used"
    assert same(*memories[:2]) and not same(*memories[1:]) and memories[0].pixel_pointer.max() == 2 * 16
    assert all(torch.equal(a, b) for a, b in zip(keys[0], keys[1]))
    generator = torch.Generator().manual_seed(0)
    draws = [memories[0].sample(generator, 20, 6)[0] for _ in range(2)]
    assert not torch.equal(*draws), "the slots are drawn anew each time"

"""mmseg's augmentation against slow references: category cap, colours; images of their own sizes; shared batches."""

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkd.config import DataConfig, RunConfig
from segkd.data.augment import PADDING, augment
from segkd.data.draws import TRIES, Numbers
from segkd.data.photometric import distort
from segkd.registry import UserError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noisy_batch(batch, height, width, seed=0, classes=20):
    noise = np.random.default_rng(seed)
    images = noise.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    return torch.from_numpy(images), torch.from_numpy(noise.integers(0, classes, (batch, height, width), dtype=np.uint8))


def wall_with_a_door(batch, seed):
    """Label maps of one class with a small patch of another somewhere, and some ignored pixels."""
    noise = np.random.default_rng(seed)
    labels = np.full((batch, 40, 60), 3, np.uint8)
    for label in labels:
        y, x = noise.integers(0, 30), noise.integers(0, 40)
        label[y : y + 10, x : x + 20] = 5
        label[:, :4] = 255
    return torch.zeros(batch, 40, 60, 3, dtype=torch.uint8), torch.from_numpy(labels)


def capped_crop(label, numbers, again, crop, cap):
    """mmseg's loop over one label map at scale 1: look at up to ten crops, take the eleventh unseen."""
    room = [side - length for side, length in zip(label.shape, crop)]
    for turn in range(TRIES + 1):
        pair = numbers[1:3] if turn == 0 else again[turn - 1]
        top, left = (int(u * (r + 1)) for u, r in zip(pair, room))
        seen = label[top : top + crop[0], left : left + crop[1]]
        classes, counts = np.unique(seen[seen != 255], return_counts=True)
        if turn == TRIES or (len(classes) > 1 and counts.max() / counts.sum() < cap):
            return seen[:, ::-1] if numbers[3] < 0.5 else seen


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), cap=st.sampled_from([0.55, 0.75, 0.9]))
def test_category_cap_equals_the_loop(seed, cap):
    images, labels = wall_with_a_door(5, seed)
    _, got = augment(images, labels, generator(seed), (15, 20), (1, 1), cat_max_ratio=cap)
    draws = generator(seed)
    first, again = (torch.rand(5, *shape, generator=draws, dtype=torch.float64).numpy() for shape in ((4,), (TRIES, 2)))
    for i in range(5):
        assert np.array_equal(got[i].numpy(), capped_crop(labels[i].numpy(), first[i], again[i], (15, 20), cap))


def slow_colours(image, u):
    """mmseg's distortion of one image (h, w, 3) in [0, 1], pixel by pixel with the standard library's HSV."""
    image = np.clip(image + ((2 * u[1] - 1) * 32 / 255 if u[0] < 0.5 else 0), 0, 1)
    contrast = 0.5 + u[4] if u[3] < 0.5 else 1
    early = u[2] < 0.5
    image = np.clip(image * contrast, 0, 1) if early else image
    saturation = 0.5 + u[6] if u[5] < 0.5 else 1
    turn = (int(36 * u[8]) - 18) * 2 / 360 if u[7] < 0.5 else 0
    out = np.empty_like(image)
    for place in np.ndindex(image.shape[:2]):
        hue, chroma, value = colorsys.rgb_to_hsv(*image[place])
        out[place] = colorsys.hsv_to_rgb((hue + turn) % 1, min(chroma * saturation, 1), value)
    return out if early else np.clip(out * contrast, 0, 1)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 9), width=st.integers(1, 9))
def test_colours_equal_the_slow_reference(seed, height, width):
    images = noisy_batch(3, height, width, seed)[0].permute(0, 3, 1, 2).float() / 255
    images[0, :, 0] = images[0, :1, 0]  # grey pixels have no hue
    numbers = torch.rand(3, 9, generator=generator(seed), dtype=torch.float64)
    want = [slow_colours(image.permute(1, 2, 0).double().numpy(), u) for image, u in zip(images, numbers.tolist())]
    got = distort(images.clone(), numbers).permute(0, 2, 3, 1).numpy()
    assert np.abs(got - want).max() * 255 < 0.1
    assert got.min() >= 0 and got.max() <= 1


def test_colours_change_neither_labels_nor_padding_nor_the_place():
    images, labels = noisy_batch(6, 30, 40)
    plain, plain_labels = augment(images, labels, generator(3), (50, 50), (0.5, 1.0))
    bright, bright_labels = augment(images, labels, generator(3), (50, 50), (0.5, 1.0), photometric=True)
    assert torch.equal(plain_labels, bright_labels)
    padding = torch.tensor(PADDING).view(1, 3, 1, 1)
    outside = ((plain == padding).all(1)) & (plain_labels == 255)
    assert outside.any() and torch.equal((bright == padding).all(1) & (bright_labels == 255), outside)
    assert (plain - bright).abs().max() > 0.05
    want = distort(plain.clone(), Numbers.of(6, generator(3)).colour)
    inside = ~outside[:, None].expand_as(plain)
    assert torch.equal(bright[inside], want[inside])


def test_options_off_change_nothing_and_all_draw_the_same():
    images, labels = noisy_batch(4, 30, 40)
    one, two = generator(), generator()
    plain = augment(images, labels, one, (20, 20))
    capped = augment(images, labels, two, (20, 20), cat_max_ratio=0.999, photometric=False)
    assert torch.equal(one.get_state(), two.get_state())
    assert torch.equal(plain[0], capped[0]) and torch.equal(plain[1], capped[1])  # noise has no ruling class


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4),
    crop=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    options=st.sampled_from([{}, {"continuous": True}, {"cat_max_ratio": 0.75, "photometric": True}]),
)
def test_images_of_their_own_sizes_are_treated_as_if_alone(seed, sizes, crop, options):
    height, width = (max(side) for side in zip(*sizes))
    images, labels = noisy_batch(len(sizes), height, width, seed)
    got = augment(images, labels, generator(seed), crop, sizes=torch.tensor(sizes), **options)
    for i, (h, w) in enumerate(sizes):
        alone = images[i : i + 1, :h, :w], labels[i : i + 1, :h, :w]
        want = augment(*alone, generator(seed), crop, part=(i, len(sizes)), **options)
        assert (got[0][i] - want[0][0]).abs().max() * 255 < 0.01
        assert torch.equal(got[1][i], want[1][0])


@pytest.mark.parametrize("bounds", [(0, 3, 8), (0, 1, 2, 5, 8), (0, 8)])
def test_crops_do_not_depend_on_how_many_share_a_batch(bounds):
    images, labels = noisy_batch(8, 30, 40)
    options = {"crop": (25, 25), "photometric": True, "cat_max_ratio": 0.06}
    whole = augment(images, labels, generator(1), **options)
    parts = [
        augment(images[a:b], labels[a:b], generator(1), part=(a, 8), **options) for a, b in zip(bounds, bounds[1:])
    ]
    for i in range(2):
        assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])


def test_wrong_arguments_are_named():
    images, labels = noisy_batch(2, 10, 12)
    with pytest.raises(UserError, match="sizes"):
        augment(images, labels, generator(), (8, 8), sizes=torch.tensor([[10, 12], [11, 12]]))
    with pytest.raises(UserError, match="no part of a batch of 3"):
        augment(images, labels, generator(), (8, 8), part=(2, 3))
    with pytest.raises(UserError, match="no range of factors"):
        augment(images, labels, generator(), (8, 8), (0.0, 2.0), continuous=True)


def test_options_make_another_run_and_their_defaults_none():
    plain, changes = RunConfig(), ({"continuous_scale": True}, {"cat_max_ratio": 0.75}, {"photometric": True})
    assert len({plain.id, *(RunConfig(data=DataConfig(**change)).id for change in changes)}) == 4
    defaults = DataConfig(continuous_scale=False, cat_max_ratio=1.0, photometric=False)
    assert RunConfig(data=defaults).id == plain.id == "scenes-deeplabv3_resnet18-baseline-s0-64333293"  # from before there were options

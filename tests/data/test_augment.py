"""Augmentation against a slow reference (resize, pad, crop, flip, one image at a time), its identities and its past."""

import hashlib
from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segkd.data.augment import PADDING, augment, to_batch
from segkd.data.draws import SCALES, Numbers, draw
from segkd.registry import UserError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_batch(batch=4, height=48, width=64, seed=0):
    """Images without pixel noise and labels of blocks, so that one wrong pixel shows."""
    coarse = torch.rand(batch, 3, 6, 8, generator=generator(seed))
    images = F.interpolate(coarse, (height, width), mode="bilinear").mul(255).byte().permute(0, 2, 3, 1).contiguous()
    blocks = torch.randint(0, 11, (batch, 1, 12, 16), generator=generator(seed + 1)).float()
    return images, F.interpolate(blocks, (height, width), mode="nearest")[:, 0].byte()


def sources(size, scaled):
    """Where the centres of ``scaled`` pixels lie among ``size``: the nearest pixel and the bilinear matrix, in fractions."""
    centres = [Fraction(2 * p + 1, 2) * Fraction(size, scaled) for p in range(scaled)]
    matrix = np.zeros((scaled, size))
    for p, centre in enumerate(centres):
        place = min(max(centre - Fraction(1, 2), 0), size - 1)
        lower = floor(place)
        matrix[p, lower] += float(1 - (place - lower))
        matrix[p, min(lower + 1, size - 1)] += float(place - lower)
    return [floor(centre) for centre in centres], matrix


def reference(image, label, numbers, factor, crop):
    """One image, in NumPy and float64, in the papers' order: resize, pad bottom/right, crop, flip. Grey levels."""
    scaled = [max(1, round(side * factor)) for side in label.shape]
    (y, by_rows), (x, by_columns) = (sources(*pair) for pair in zip(label.shape, scaled))
    big = np.stack([by_rows @ plane @ by_columns.T for plane in image.astype(float).transpose(2, 0, 1)], axis=-1)
    room = [max(0, side - length) for side, length in zip(scaled, crop)]
    canvas = np.broadcast_to(np.array(PADDING) * 255, (*np.maximum(scaled, crop), 3)).copy()
    classes = np.full(canvas.shape[:2], 255)
    canvas[: scaled[0], : scaled[1]], classes[: scaled[0], : scaled[1]] = big, label[y][:, x]
    top, left = (int(u * (r + 1)) for u, r in zip(numbers[1:3], room))
    canvas, classes = (a[top : top + crop[0], left : left + crop[1]] for a in (canvas, classes))
    return (canvas[:, ::-1], classes[:, ::-1]) if numbers[3] < 0.5 else (canvas, classes)


def grey(images):
    return images.permute(0, 2, 3, 1).double().numpy() * 255


sides = st.tuples(st.integers(1, 70), st.integers(1, 70))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 3),
    size=sides,
    crop=sides,
    scale=st.sampled_from([(0.5, 2.0), (0.5, 0.9), (1.3, 2.0), (1.0, 1.0)]),
    continuous=st.booleans(),
)
def test_equals_the_slow_reference(seed, batch, size, crop, scale, continuous):
    noise = np.random.default_rng(seed)
    images, labels = (noise.integers(0, high, (batch, *size, *c), dtype=np.uint8) for high, c in ((256, (3,)), (20, ())))
    got, got_labels = augment(
        torch.from_numpy(images), torch.from_numpy(labels), generator(seed), crop, scale, continuous=continuous
    )
    drawn = torch.rand(batch, 4, generator=generator(seed), dtype=torch.float64).tolist()
    for i, numbers in enumerate(drawn):
        among = [s for s in SCALES if scale[0] <= s <= scale[1]]
        factor = scale[0] + numbers[0] * (scale[1] - scale[0]) if continuous else among[int(numbers[0] * len(among))]
        want, want_labels = reference(images[i], labels[i], numbers, factor, crop)
        assert np.abs(grey(got)[i] - want).max() < 0.1  # grey levels, on images of pure noise
        assert np.array_equal(got_labels[i].numpy(), want_labels)


@pytest.mark.parametrize("factor", [1.0, 1.3, 2.0])
def test_enlarging_equals_pillow(factor):
    images, labels = smooth_batch(batch=2)
    crop = (round(48 * factor), round(64 * factor))
    got, _ = augment(images, labels, generator(), crop, (factor, factor), flip=False)
    for image, found in zip(images.numpy(), grey(got)):
        pillow = np.asarray(Image.fromarray(image).resize(crop[::-1], Image.Resampling.BILINEAR), dtype=float)
        assert np.abs(found.round() - pillow).max() <= 1  # Pillow rounds after rows and after columns


def ramps():
    """Six images and label maps given by formulas."""
    y, x = torch.meshgrid(torch.arange(40), torch.arange(56), indexing="ij")
    images = [torch.stack([(y * 5 + b * 31) % 256, (x * 4 + y) % 256, (x * y + 17 * b) % 256], -1) for b in range(6)]
    return torch.stack(images).byte(), torch.stack([(x // 7 + y // 5 + b) % 11 for b in range(6)]).byte()


PAPERS, CPU = {"crop": (36, 36)}, {"crop": (40, 56), "scale": (1.0, 1.5)}


@pytest.mark.parametrize(
    "options, seed, digest, points",
    [
        (PAPERS, 0, "1ec81f35f7fd1891", [76.25, 130.75, 93.5, 87.17, 82.71, 116.23, 108.0, 124.0, 128.32, 146.19]),
        (PAPERS, 1, "f4a49b3d90ee9b40", [123.68, 164.5, 34.27, 123.73, 97.0, 124.84, 126.44, 66.33, 136.5, 130.5]),
        (CPU, 0, "e640f89a303fbd19", [45.83, 43.17, 77.92, 68.88, 185.08, 97.24, 72.96, 195.04, 139.7, 113.42]),
        (CPU, 1, "aa8b09e6d7f6ff9e", [0.0, 220.0, 0.0, 34.27, 24.74, 20.94, 84.5, 200.42, 126.41, 113.71]),
    ],
)
def test_golden_batches(options, seed, digest, points):
    """Taken from the first augmentation, by grid_sample: what published runs saw, the labels to the bit."""
    images, labels = augment(*ramps(), generator(seed), **options)
    assert hashlib.sha256(labels.byte().numpy().tobytes()).hexdigest()[:16] == digest
    found = images[:, :, ::17, ::19].flatten()[::9][:10] * 255
    torch.testing.assert_close(found, torch.tensor(points), atol=0.03, rtol=0)


def test_without_scale_and_flip_it_is_the_identity_and_draws_as_much():
    images, labels = smooth_batch()
    one, two = generator(), generator()
    got, got_labels = augment(images, labels, one, (48, 64), scale=(1, 1), flip=False)
    want, want_labels = to_batch(images, labels)
    assert torch.equal(got_labels, want_labels)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=0)
    augment(images, labels, two, (40, 50))
    assert torch.equal(one.get_state(), two.get_state())


def test_scales_are_the_papers_and_crops_lie_inside():
    sizes = torch.tensor([100, 200]).expand(4000, 2)
    rows, columns = draw(sizes, Numbers.of(4000, generator()), (120, 120), (0.5, 2.0), True)
    assert set(rows.scaled.tolist()) == {round(100 * s) for s in SCALES} and len(SCALES) == 16
    counts = torch.bincount(rows.scaled)[rows.scaled.unique()]
    assert counts.min() > 180  # 250 expected for each
    for axis in (rows, columns):
        room = (axis.scaled - 120).clamp(min=0)
        assert (axis.offset >= 0).all() and (axis.offset <= room).all()
        assert (axis.offset == room).any() and (axis.offset[room > 0] == 0).any()
    assert abs(columns.flip.float().mean() - 0.5) < 0.04


def test_batches_of_another_kind_are_named():
    images, labels = smooth_batch()
    with pytest.raises(UserError, match="uint8"):
        augment(images.float(), labels, generator(), (32, 32))
    with pytest.raises(UserError, match=r"\(4, 3, 48, 64\)"):
        to_batch(images.permute(0, 3, 1, 2), labels)
    with pytest.raises(UserError, match="factors"):
        augment(images, labels, generator(), (32, 32), scale=(3, 4))


def test_to_batch():
    images, labels = smooth_batch()
    got, got_labels = to_batch(images, labels)
    assert got.dtype == torch.float32 and got.shape == (4, 3, 48, 64) and got.is_contiguous()
    assert got_labels.dtype == torch.int64
    np.testing.assert_array_equal((got * 255).round().byte().permute(0, 2, 3, 1).numpy(), images.numpy())

"""Augmentation against a slow reference (resize, pad, crop, flip, one image at a time) and its identities."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segkd.data.augment import PADDING, SCALES, augment, draw, to_batch
from segkd.registry import UserError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_batch(batch=4, height=48, width=64, seed=0):
    """Images without pixel noise and labels of blocks, so that one wrong pixel shows."""
    coarse = torch.rand(batch, 3, 6, 8, generator=generator(seed))
    images = F.interpolate(coarse, (height, width), mode="bilinear").mul(255).byte().permute(0, 2, 3, 1).contiguous()
    blocks = torch.randint(0, 11, (batch, 1, 12, 16), generator=generator(seed + 1)).float()
    return images, F.interpolate(blocks, (height, width), mode="nearest")[:, 0].byte()


def nearest(size, scaled):
    """The source pixel that holds the centre of each of ``scaled`` pixels, in exact fractions."""
    return [floor(Fraction(2 * p + 1, 2) * Fraction(size, scaled)) for p in range(scaled)]


def reference(image, label, scaled, offset, crop, mirrored):
    """The papers' order for one image: resize, pad bottom/right, crop, flip."""
    size = tuple(int(value) for value in scaled)
    big = F.interpolate(image.permute(2, 0, 1)[None].double() / 255, size, mode="bilinear", align_corners=False)[0]
    big_label = label[nearest(label.shape[0], size[0])][:, nearest(label.shape[1], size[1])].long()
    below, right = max(crop[0] - size[0], 0), max(crop[1] - size[1], 0)
    big_label = F.pad(big_label, (0, right, 0, below), value=255)
    big = torch.stack([F.pad(plane, (0, right, 0, below), value=mean) for plane, mean in zip(big, PADDING)])
    y, x = int(offset[0]), int(offset[1])
    big, big_label = big[:, y : y + crop[0], x : x + crop[1]], big_label[y : y + crop[0], x : x + crop[1]]
    return (big.flip(-1), big_label.flip(-1)) if mirrored else (big, big_label)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    crop=st.tuples(st.integers(8, 80), st.integers(8, 80)),
    scale=st.sampled_from([(0.5, 2.0), (0.5, 0.9), (1.3, 2.0)]),
)
def test_equals_the_slow_reference(seed, crop, scale):
    images, labels = smooth_batch(seed=seed)
    got, got_labels = augment(images, labels, generator(seed), crop, scale)
    rows, columns = draw(tuple(labels.shape), generator(seed), crop, scale, flip=True)
    for i in range(len(images)):
        scaled, offset = (rows.scaled[i], columns.scaled[i]), (rows.offset[i], columns.offset[i])
        want, want_labels = reference(images[i], labels[i], scaled, offset, crop, bool(columns.flip[i]))
        assert (got[i] - want).abs().max() < 0.5 / 255
        assert torch.equal(got_labels[i], want_labels)


def test_full_size_without_scale_and_flip_is_the_identity():
    images, labels = smooth_batch()
    got, got_labels = augment(images, labels, generator(), (48, 64), scale=(1, 1), flip=False)
    want, want_labels = to_batch(images, labels)
    assert torch.equal(got_labels, want_labels)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=0)


def test_image_and_label_stay_aligned():
    """Colours and labels that both encode the block's column: they must tell the same story after augmentation."""
    column = (torch.arange(64) // 8).byte().expand(4, 48, 64).contiguous()
    images = torch.stack([column * 30] * 3, dim=-1)
    got, labels = augment(images, column, generator(5), (40, 56))
    valid = labels != 255
    off = (got[:, 0] * 255 / 30 - labels).abs()[valid]
    assert valid.any() and off.max() <= 0.51  # half a step at the border of two blocks, by interpolation
    assert (off < 0.01).float().mean() > 0.7


def test_labels_keep_their_values_and_padding_is_the_mean_colour():
    images, labels = smooth_batch()
    labels[labels > 6] = 6
    got, got_labels = augment(images, labels, generator(2), (64, 90), scale=(0.5, 0.9), ignore=77)
    assert set(got_labels.unique().tolist()) <= set(labels.unique().tolist()) | {77}
    padded = got[:, :, -1, :]  # the last row of a crop taller than every scaled image
    torch.testing.assert_close(padded, torch.tensor(PADDING).view(1, 3, 1).expand_as(padded))
    assert (got_labels[:, -1] == 77).all()


def test_smaller_images_are_padded_at_the_bottom_and_right():
    images, labels = smooth_batch()
    _, got = augment(images, labels, generator(), (64, 80), scale=(1, 1), flip=False)
    assert torch.equal(got[:, :48, :64], labels.long())
    assert (got[:, 48:] == 255).all() and (got[:, :, 64:] == 255).all()


def test_flip_mirrors_image_and_label():
    images, labels = smooth_batch(batch=8)
    got, got_labels = augment(images, labels, generator(), (48, 64), scale=(1, 1))
    want, want_labels = to_batch(images, labels)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(got_labels, want_labels)]
    assert 0 < sum(mirrored) < 8
    for i in range(8):
        torch.testing.assert_close(got[i], want[i].flip(-1) if mirrored[i] else want[i], atol=2e-5, rtol=0)


def test_same_generator_same_batch():
    images, labels = smooth_batch()
    runs = [augment(images, labels, generator(seed), (32, 32)) for seed in (7, 7, 8)]
    assert torch.equal(runs[0][0], runs[1][0]) and torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][0], runs[2][0])


def test_options_do_not_change_how_much_is_drawn():
    images, labels = smooth_batch()
    one, two = generator(), generator()
    augment(images, labels, one, (32, 32), scale=(1, 1), flip=False)
    augment(images, labels, two, (40, 50))
    assert torch.equal(one.get_state(), two.get_state())


def test_scales_are_the_papers_and_crops_lie_inside():
    rows, columns = draw((4000, 100, 200), generator(), (120, 120), (0.5, 2.0), True)
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

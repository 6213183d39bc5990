"""Packing: right content, made once, whole or not at all, by several processes at once."""

import hashlib
import json
import multiprocessing

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import segkd.data.catalog as catalog
from segkd.data.store import pack
from segkd.registry import UserError


def test_arrays_and_what_is_beside_them(counted, tmp_path):
    packed = pack("counted", "train", (4, 4), packed_dir=tmp_path / "packed")
    assert packed.images.shape == (6, 4, 4, 3) and packed.labels.shape == (6, 4, 4)
    assert packed.images.dtype == packed.labels.dtype == np.uint8 and isinstance(packed.images, np.memmap)
    assert not packed.images.flags.writeable
    assert (len(packed), packed.name, packed.split, packed.num_classes) == (6, "counted", "train", 2)
    assert packed.names[2] == "image2" and packed.classes == ("road", "sky") and packed.palette[1] == (4, 5, 6)
    assert packed.labels[0].tolist() == [[0, 0, 1, 1]] * 2 + [[255, 255, 1, 1]] * 2
    assert packed.class_frequencies().tolist() == [1 / 3, 2 / 3]
    assert packed.images[3, 0, 0].tolist() == [10] * 3 and packed.images[3, 3, 3].tolist() == [43] * 3


def test_images_are_antialiased_and_labels_are_not(counted, tmp_path, monkeypatch):
    fine = np.indices((12, 12)).sum(0) % 2
    pair = (np.repeat(fine[..., None] * 255, 3, -1).astype(np.uint8), fine.astype(np.uint8))
    monkeypatch.setattr(counted, "read", lambda self, index: pair)
    packed = pack("counted", "train", (4, 4), packed_dir=tmp_path)
    assert abs(packed.images[0].astype(int) - 127).max() < 20  # a checkerboard becomes grey
    np.testing.assert_array_equal(packed.labels[0], fine[1::3, 1::3])  # the middle of each 3 x 3 block


def test_limit_takes_images_evenly_and_lies_elsewhere(counted, tmp_path):
    packed = pack("counted", "train", (4, 4), packed_dir=tmp_path, limit=3)
    assert packed.names == ("image0", "image2", "image5") and len(packed) == 3
    assert packed.path != pack("counted", "train", (4, 4), packed_dir=tmp_path).path
    assert len(pack("counted", "train", (4, 4), packed_dir=tmp_path, limit=100)) == 6


def test_changed_files_are_packed_anew(counted, tmp_path, monkeypatch):
    old = pack("counted", "train", (4, 4), packed_dir=tmp_path)
    monkeypatch.setattr(counted, "content", "two")
    for _ in range(2):  # made once
        new = pack("counted", "train", (4, 4), packed_dir=tmp_path)
    assert new.fingerprint != old.fingerprint and new.path != old.path and len(counted.reads()) == 2 * 6


@pytest.mark.parametrize("damage", ["images.npy", "labels.npy", "meta.json"])
def test_a_damaged_pack_is_made_again(counted, tmp_path, damage):
    want = np.array(pack("counted", "train", (4, 4), packed_dir=tmp_path).images)
    path = next(tmp_path.glob(f"counted-*/{damage}"))
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(pack("counted", "train", (4, 4), packed_dir=tmp_path).images, want)
    assert len(counted.reads()) == 2 * 6


def test_two_processes_at_once_pack_once(counted, tmp_path):
    counted.delay = 0.03
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=pack, args=("counted", "train", (4, 4), None, tmp_path / "packed")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0] and len(counted.reads()) == 6


def test_scenes_are_drawn_not_resized(tmp_path):
    packed = pack("scenes", "val", (24, 32), packed_dir=tmp_path, limit=2)
    image, label, name = catalog.create_dataset("scenes", split="val").at_size((24, 32))[100]
    assert packed.names == ("val_0000", "val_0100") and name == "val_0100"
    np.testing.assert_array_equal(packed.images[1], image)
    np.testing.assert_array_equal(packed.labels[1], label)


def own_sizes(monkeypatch, counted, sizes):
    """Images of these (H, W), their pixels numbered on from one another; classes 0 and 1 and void by turns."""
    starts = np.cumsum([0, *(h * w for h, w in sizes)])

    def read(self, index):
        (h, w), start = sizes[index], starts[index]
        pixels = np.arange(start, start + h * w).reshape(h, w)
        return np.stack([pixels % 251, pixels % 241, pixels % 239], -1).astype(np.uint8), np.uint8([0, 1, 255])[pixels % 3]

    monkeypatch.setattr(counted, "count", len(sizes))
    monkeypatch.setattr(counted, "read", read)


SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(st.lists(SHAPES, min_size=1, max_size=7), st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_own_sizes_come_back_padded_at_the_bottom_and_right(counted, tmp_path, sizes, data):
    index = data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=5))
    with pytest.MonkeyPatch.context() as patch:
        own_sizes(patch, counted, sizes)
        patch.setattr(counted, "content", str(sizes))
        packed, plain = pack("counted", "test", None, packed_dir=tmp_path), catalog.create_dataset("counted", split="test")
        images, labels, found = packed.take(index)
        height, width = max(sizes[i][0] for i in index), max(sizes[i][1] for i in index)
        assert images.dtype == labels.dtype == torch.uint8 and images.shape == (len(index), height, width, 3)
        assert labels.shape == (len(index), height, width) and (packed.size is None) == (len(set(sizes)) > 1)
        assert found is None if packed.size else (found.dtype == torch.int64 and found.tolist() == [list(sizes[i]) for i in index])
        for place, i in enumerate(index):
            h, w = sizes[i]
            want_image, want_label = np.zeros((height, width, 3)), np.full((height, width), 255)
            want_image[:h, :w], want_label[:h, :w] = plain[i].image, plain[i].label
            np.testing.assert_array_equal(images[place], want_image)
            np.testing.assert_array_equal(labels[place], want_label)
            np.testing.assert_array_equal(packed.images[i], plain[i].image)
            np.testing.assert_array_equal(packed.labels[i], plain[i].label)
        every = np.concatenate([sample.label.ravel() for sample in plain])
        counts = np.array([(every == 0).sum(), (every == 1).sum()])
        np.testing.assert_allclose(packed.class_frequencies(), counts / max(counts.sum(), 1))
        assert len(packed) == len(sizes) and packed.nbytes == 4 * every.size


def test_images_of_one_own_size_are_the_plain_pack(counted, tmp_path):
    native, plain = (pack("counted", "train", size, packed_dir=tmp_path) for size in (None, (16, 16)))
    assert native.path == plain.path and native.size == (16, 16)
    image, label, _ = catalog.create_dataset("counted")[5]
    assert np.array_equal(plain.images[5], image) and np.array_equal(plain.labels[5], label)
    before = len(counted.reads())
    assert pack("counted", "train", None, packed_dir=tmp_path).path == native.path and len(counted.reads()) == before


def test_rows_of_several_sizes(counted, tmp_path, monkeypatch):
    own_sizes(monkeypatch, counted, [(2, 3), (5, 4), (1, 7)])
    packed = pack("counted", "train", None, packed_dir=tmp_path)
    assert [label.shape for label in packed.labels] == [(2, 3), (5, 4), (1, 7)] and packed.images[-1].shape == (1, 7, 3)
    for several, rows in ((slice(1, None), [1, 2]), ([2, 0], [2, 0]), (np.array([1]), [1]), ([], [])):
        assert all(map(np.array_equal, packed.images[several], (packed.images[i] for i in rows)))
        assert len(packed.labels[several]) == len(rows)
    with pytest.raises(IndexError):
        packed.labels[3]
    first = packed.first(2)
    assert first.names == packed.names[:2] and all(map(np.array_equal, first.labels, packed.labels)) and len(first.labels) == 2
    assert [size.tolist() for size in first.take([1])[2]] == [[5, 4]] and len(packed.first(9)) == 3
    again = pack("counted", "train", None, packed_dir=tmp_path)
    np.testing.assert_array_equal(again.sizes, [[2, 3], [5, 4], [1, 7]])
    (packed.path / "sizes.npy").write_bytes(b"")  # damaged: made again
    np.testing.assert_array_equal(pack("counted", "train", None, packed_dir=tmp_path).sizes, [[2, 3], [5, 4], [1, 7]])


def test_take_of_one_size(counted, tmp_path):
    packed = pack("counted", "train", (4, 4), packed_dir=tmp_path)
    images, labels, sizes = packed.take([5, 0, 5])
    np.testing.assert_array_equal(images, packed.images[[5, 0, 5]])
    np.testing.assert_array_equal(labels, packed.labels[[5, 0, 5]])
    assert sizes is None
    images[:] = 0  # a copy: the pack stays as it is
    assert packed.images[0].any()


def test_names_and_records_of_packs_stay_and_packs_without_the_hash_of_their_pixels_stay_valid(counted, tmp_path):
    packed = pack("counted", "train", (4, 4), packed_dir=tmp_path)
    assert packed.path.name == "counted-train-4x4-n6-v1-" + packed.fingerprint[:8]
    assert sorted(path.name for path in packed.path.iterdir()) == ["images.npy", "labels.npy", "meta.json"]
    assert list(json.loads((packed.path / "meta.json").read_text())) == [
        "name", "split", "size", "names", "classes", "palette", "fingerprint", "version", "pixels",
    ]  # fmt: skip
    assert packed.pixels == hashlib.sha256(packed.images.tobytes() + packed.labels.tobytes()).hexdigest()
    record = packed.path / "meta.json"
    older = {key: value for key, value in json.loads(record.read_text()).items() if key != "pixels"}
    record.write_text(json.dumps(older))
    before = packed.path.stat().st_ino
    again = pack("counted", "train", (4, 4), packed_dir=tmp_path)
    assert again.pixels == "" and again.path.stat().st_ino == before


@pytest.mark.parametrize("options", [{"size": (0, 4)}, {"size": (4,)}, {"size": (4, 4), "limit": 0}])
def test_senseless_sizes(counted, tmp_path, options):
    with pytest.raises(UserError, match="size is|limit is"):
        pack("counted", "train", packed_dir=tmp_path, **options)

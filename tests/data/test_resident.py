"""Where a split lies: the decision, the copy and its batches, with the CPU in the place of a GPU."""

import dataclasses
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segkd.data import resident
from segkd.data.store import Packed, pack
from segkd.registry import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return pack("scenes", "train", (24, 32), packed_dir=tmp_path_factory.mktemp("packed"), limit=7)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU with as many free bytes as ``free`` says, whose memory is the host's."""
    state = SimpleNamespace(free=10**9)
    monkeypatch.setattr(resident, "free_memory", lambda device: state.free)
    real = resident.Resident
    monkeypatch.setattr(resident, "Resident", lambda packed, device: real(packed, CPU))
    return state


def test_on_the_cpu_it_stays_memory_mapped(packed, capsys):
    images, labels, sizes = resident.take(packed, np.array([5, 0, 5]), CPU)
    assert resident._residents[packed] == {CPU: None} and sizes is None
    assert np.array_equal(images, packed.images[[5, 0, 5]]) and np.array_equal(labels, packed.labels[[5, 0, 5]])
    images.zero_()  # a copy: the file is read-only
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("piece", [1, 5000, resident.PIECE])
def test_a_resident_copy_gives_the_same_batches(packed, monkeypatch, piece):
    monkeypatch.setattr(resident, "PIECE", piece)
    held = resident.Resident(packed, CPU)
    for index in ([0, 1, 2, 3, 4, 5, 6], [6, 2, 2]):
        for got, want in zip(held.take(np.array(index)), resident.take(packed, np.array(index), CPU)):
            assert (got is None and want is None) or torch.equal(got, want)


def test_a_resident_copy_of_images_of_their_own_sizes(packed):
    """The same images cut to different sizes, padded by hand."""
    sizes = np.array([[24, 32], [5, 32], [24, 3], [1, 1], [7, 9], [20, 30], [11, 17]])
    cut = lambda arrays: np.concatenate([a[:h, :w].reshape(h * w, -1) for a, (h, w) in zip(arrays, sizes)])  # noqa: E731
    meta = dataclasses.replace(packed.meta, size=None)
    ragged = Packed(cut(packed.images), cut(packed.labels)[:, 0], meta, packed.path, sizes)
    images, labels, found = resident.Resident(ragged, CPU).take(np.array([4, 1, 6]))
    assert images.shape == (3, 11, 32, 3) and np.array_equal(found, sizes[[4, 1, 6]])
    assert all(torch.equal(a, b) for a, b in zip((images, labels, found), resident.take(ragged, np.array([4, 1, 6]), CPU)))
    for place, row in enumerate([4, 1, 6]):
        h, w = sizes[row].tolist()
        assert np.array_equal(images[place, :h, :w], packed.images[row, :h, :w])
        assert np.array_equal(labels[place, :h, :w], packed.labels[row, :h, :w])
        assert images[place, h:].sum() == 0 and images[place, :, w:].sum() == 0
        assert (labels[place, h:] == 255).all() and (labels[place, :, w:] == 255).all()


def test_what_fits_is_copied_once_and_said(packed, gpu, capsys):
    size = 7 * 24 * 32 * 4
    assert packed.nbytes == size
    gpu.free = 2 * size
    assert resident.make_resident(packed, GPU).images.shape == (7 * 24 * 32, 3)
    assert "copied there once" in capsys.readouterr().out
    gpu.free = 2 * size - 1  # less than half would be left for the networks
    assert resident.make_resident(packed, GPU) is None
    out = capsys.readouterr().out
    assert "memory-mapped" in out and "scenes train" in out and "GiB free" in out and out.count("\n") == 1


def test_the_variable_decides(packed, gpu, monkeypatch):
    monkeypatch.setenv("SEGKD_DATA_DEVICE", "cpu")
    assert resident.make_resident(packed, GPU) is None
    monkeypatch.setenv("SEGKD_DATA_DEVICE", "cuda")
    gpu.free = packed.nbytes
    assert resident.make_resident(packed, GPU) is not None
    gpu.free -= 1
    with pytest.raises(UserError, match="too little for SEGKD_DATA_DEVICE=cuda"):
        resident.make_resident(packed, GPU)
    with pytest.raises(UserError, match="the run is on cpu"):
        resident.make_resident(packed, CPU)
    monkeypatch.setenv("SEGKD_DATA_DEVICE", "cudaa")
    with pytest.raises(UserError, match="cuda"):
        resident.make_resident(packed, CPU)


def test_the_decision_is_made_once_and_goes_with_the_split(tmp_path, monkeypatch):
    packed = pack("scenes", "val", (24, 32), packed_dir=tmp_path, limit=3)
    asked, place = [], resident.make_resident
    monkeypatch.setattr(resident, "make_resident", lambda *arguments: asked.append(1) or place(*arguments))
    for _ in range(3):
        resident.take(packed, np.array([0]), CPU)
    assert len(asked) == 1
    gone = weakref.ref(packed)
    del packed
    assert gone() is None

"""The embedded scenes: pure, consistent over sizes, long-tailed like CamVid, and the same labels everywhere."""

import hashlib
import os
import platform
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkd.data.scenes import CLASSES, SPLITS, VERSION, scene, split_scene
from segkd.data.scenes.scene import STREAM
from segkd.registry import UserError

RARE = ["Pole", "SignSymbol", "Pedestrian", "Bicyclist"]
def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


@cache
def counts() -> np.ndarray:
    """Pixels of each label in each of 120 scenes at 96x128."""
    return np.stack([np.bincount(scene(0, i, (96, 128))[1].ravel(), minlength=256) for i in range(120)])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 70), st.integers(1, 90))
def test_any_size_gives_an_image_and_a_label(seed, index, height, width):
    image, label = scene(seed, index, (height, width))
    assert image.shape == (height, width, 3) and image.dtype == np.uint8
    assert label.shape == (height, width) and label.dtype == np.uint8
    assert set(np.unique(label)) <= {*range(11), 255}


def test_same_call_gives_the_same_bytes_whatever_came_before():
    first = scene(3, 14, (48, 64))
    scene(5, 6, (30, 40))
    again = scene(3, 14, (48, 64))
    assert digest(*first) == digest(*again)
    first[0][:], first[1][:] = 0, 0  # what is returned belongs to the caller
    assert digest(*scene(3, 14, (48, 64))) == digest(*again)


@pytest.mark.parametrize(("small", "large"), [((48, 64), (96, 128)), ((96, 128), (192, 256))])
def test_layout_does_not_depend_on_size(small, large):
    for index in range(6):
        coarse, fine = scene(1, index, small)[1], scene(1, index, large)[1]
        known = (coarse != 255) & (fine[1::2, 1::2] != 255)
        assert (coarse == fine[1::2, 1::2])[known].mean() > 0.93


def test_seed_and_index_change_the_scene():
    keys = [(0, 0), (0, 1), (1, 0), (1, 1), (0, STREAM), (0, 2 * STREAM)]
    scenes = [scene(*key, (48, 64)) for key in keys]
    assert len({digest(image) for image, _ in scenes}) == len(keys)
    assert len({digest(label) for _, label in scenes}) == len(keys)


def test_splits_are_disjoint_streams():
    heads = {split: {digest(split_scene(split, i, (24, 32))[0]) for i in range(8)} for split in SPLITS}
    assert len(set.union(*heads.values())) == 24
    assert digest(*split_scene("val", 5, (24, 32), seed=2)) == digest(*scene(2, STREAM + 5, (24, 32)))


def test_shares_have_a_long_tail():
    total = counts()[:, :11].sum(0)
    share = dict(zip(CLASSES, total / total.sum()))
    assert min(share["Sky"], share["Building"], share["Road"]) > 0.15
    assert all(0.001 < share[name] < 0.02 for name in RARE)
    assert all(0.004 < share[name] < 0.15 for name in ("Pavement", "Tree", "Fence", "Car"))
    assert 0.005 < counts()[:, 255].sum() / counts().sum() < 0.08  # void
    assert (counts()[:, :11] >= 20).mean(0).min() > 0.25  # scenes where a class is there and not tiny


def test_image_shows_what_the_label_says():
    """Sky is brighter than the road beneath it in nearly every scene: image and label belong together."""
    brighter = 0
    for index in range(20):
        image, label = scene(0, index, (48, 64))
        brighter += image[label == 0].mean() > image[label == 3].mean()
    assert brighter >= 17


PIXELS = """
import hashlib
from segkd.data.scenes import SPLITS, split_scene
digest = hashlib.sha256()
for size, count in (((96, 128), 12), ((192, 256), 3)):
    for split in SPLITS:
        for index in range(count):
            for array in split_scene(split, index, size):
                digest.update(array.tobytes())
print(digest.hexdigest()[:16])
"""


def feature_sets() -> list[str]:
    """What NumPy may switch off here, more and more: the widest instructions alone, then all beyond SSE."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    here = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    return [" ".join(here[first:]) for first in range(len(here) + 1)]


def test_golden_pixels_on_any_cpu():
    """A change of this digest is a change of the data set: raise `scenes.VERSION` with it."""
    sets = feature_sets()
    assert sets[-1] == "" and (len(sets) > 1 or platform.machine() != "x86_64")
    for off in (sets[0], sets[len(sets) // 2], ""):
        environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": off}
        said = subprocess.run([sys.executable, "-c", PIXELS], capture_output=True, text=True, env=environment)
        assert said.stdout.strip() == "3663428384ceab6b", (off, said.stderr)
    assert VERSION == 1


def test_golden_labels():
    """The layout is part of every result: a change of these digests is a change of the data set."""
    found = [digest(scene(0, index, (96, 128))[1])[:16] for index in (0, 1, STREAM, 2 * STREAM)]
    assert found == ["e4a42d49b6a140dc", "8783a2e5ab75d922", "bade51ca77e4eea4", "7cf8468d0fc67eb0"]


@pytest.mark.parametrize("call, named", [
    (lambda: scene(-1, 0, (8, 8)), "seed"), (lambda: scene(0, -1, (8, 8)), "index"), (lambda: scene(0, 0, (0, 8)), "size"),
    (lambda: split_scene("trian", 0, (8, 8)), "did you mean 'train'"), (lambda: split_scene("val", STREAM, (8, 8)), "val"),
])  # fmt: skip
def test_bad_arguments_are_named_in_one_line(call, named):
    with pytest.raises(UserError, match=named) as error:
        call()
    assert "\n" not in str(error.value)

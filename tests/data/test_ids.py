"""Id maps: round trips, values that nobody declared, wide integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkd.ids import ColourMap, IdMap
from segkd.data.readers.sets import about, catalogue
from segkd.registry import UserError


@given(st.data(), st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]))
def test_mapping_and_back_gives_the_raw_values(data, kind):
    """Inverse map of the train ids gives the raw mask, void aside."""
    top = 255 if kind == np.uint8 else 2000
    values = data.draw(st.lists(st.integers(0, top), min_size=2, max_size=40, unique=True))
    cut = data.draw(st.integers(1, len(values) - 1))
    ids, void = values[:cut], values[cut:]
    raw = np.array(data.draw(st.lists(st.sampled_from(values), min_size=6, max_size=6)), kind).reshape(2, 3)
    label = IdMap(ids, void)(raw, "m.png")
    assert label.dtype == np.uint8 and label.shape == raw.shape
    np.testing.assert_array_equal(label == 255, np.isin(raw, void))
    kept = label != 255
    np.testing.assert_array_equal(np.array(ids)[label[kept]], raw[kept])


@given(st.integers(-(2**31), 2**31 - 1))
def test_other_values_are_errors_or_the_rest(value):
    raw = np.full((2, 2), value, np.int64)
    if value in (3, 300):
        assert IdMap([300], [3])(raw, "m.png")[0, 0] == (0 if value == 300 else 255)
        return
    with pytest.raises(UserError, match=f"m.png holds the label {value} in 4 pixels: classes are 300, void is 3"):
        IdMap([300], [3])(raw, "m.png")
    assert IdMap([300], [3], rest=0)(raw, "m.png")[0, 0] == 0


@pytest.mark.parametrize("name", [*catalogue()])
def test_every_set_maps_its_own_ids_to_0_to_n(name):
    entry = about(name)
    raw = np.array([[*entry.ids, *entry.void]])
    label = IdMap(entry.ids, entry.void)(raw, "m")[0]
    assert label.tolist() == [*range(len(entry.classes)), *[255] * len(entry.void)]


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=2, max_size=30, unique=True), st.integers(0, 2**32 - 1))
def test_colours_and_back(colours, seed):
    ids, void = colours[:-1], colours[-1:]
    places = np.random.default_rng(seed).integers(0, len(colours), (3, 4))
    label = ColourMap(ids, void)(np.array(colours, np.uint8)[places], "m.png")
    np.testing.assert_array_equal(label, np.where(places == len(ids), 255, places))


def test_a_colour_that_nobody_declared():
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[1, 1] = 1, 2, 254
    with pytest.raises(UserError, match="m.png holds the colour #0102fe in 1 pixels.*`classes` or to `ignore`"):
        ColourMap([(0, 0, 0), (255, 255, 255)])(picture, "m.png")


@pytest.mark.parametrize("build", [
    lambda: IdMap([1, 2], [2]), lambda: IdMap([-1]), lambda: IdMap([]), lambda: IdMap(range(256)),
    lambda: ColourMap([(1, 2, 3), (1, 2, 3)]),
])  # fmt: skip
def test_maps_that_make_no_sense(build):
    with pytest.raises(UserError, match="given twice|1 to 255 classes"):
        build()

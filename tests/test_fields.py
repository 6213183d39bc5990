"""Types and ranges of a run's fields: every mistake is one line that names the field, before anything is written."""

import dataclasses
import math
import pickle

import pytest

from segkd.cli import main
from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule, from_dict, to_dict
from segkd.registry import UserError

PARTS = {"data": DataConfig, "network": NetworkConfig, "schedule": Schedule}
BAD = {
    ("data", "crop"): ([48], [48, 64, 3], ["48", "64"], [48.5, 64], [-48, 64], [0, 64], [None, None], 48, "48x64"),
    ("data", "size"): ([48], [[48], [64]], [0, 64]),
    ("data", "scale"): ([0.5], [2.0, 0.5], [0, 2], [-1, 2], ["a", "b"], [0.5, math.inf], None),
    ("data", "cat_max_ratio"): (0, 1.5, math.nan),
    ("data", "split"): ("train", "tset", None),
    ("data", "train_limit"): (0, -1, 1.5, True),
    ("data", "photometric"): (1, "yes"),
    ("network", "width"): (0, -1, math.inf, 10**400),
    ("network", "output_stride"): (12, 8.0, "8"),
    ("network", "head_channels"): (0, 2.5),
    ("network", "extra_channels"): (-1,),
    ("schedule", "lr"): (math.nan, math.inf, -0.1, 0, "fast", True, None),
    ("schedule", "steps"): (-1, 2.0, True),
    ("schedule", "batch_size"): (0, -2),
    ("schedule", "validations"): (0, -1),
    ("schedule", "momentum"): (1.0, 1.5, -0.1),
    ("schedule", "weight_decay"): (-1, math.nan),
    ("schedule", "power"): (-1.0,),
    ("schedule", "aux_weight"): (-1.0,),
    ("schedule", "warmup"): (2.0, -0.1),
    ("schedule", "average"): (1.1,),
    ("schedule", "optimiser"): ("sdg", 3),
    ("schedule", "precision"): ("bf61",),
    ("run", "seed"): (-1, 2**70, 0.5),
    ("run", "hyper"): ([], None),
    ("run", "teacher"): ({}, "none"),
    ("run", "teacher_classes"): ("shufled",),
}


@pytest.mark.parametrize("part, key, value", [(*place, value) for place, values in BAD.items() for value in values])
def test_a_value_out_of_range_names_its_field(part, key, value):
    kind = PARTS.get(part, RunConfig)
    with pytest.raises(UserError, match=rf"^(unknown )?{part}\.{key}: ") as made:
        kind(**{key: value})
    with pytest.raises(UserError):
        dataclasses.replace(kind(), **{key: value})
    assert "\n" not in str(made.value) and len(str(made.value)) < 200
    if value != {}:  # as a file's teacher, that is a run with nothing but defaults
        with pytest.raises(UserError, match=rf"config\.teacher\.({part}\.)?{key}: "):
            from_dict({"teacher": {key: value} if part == "run" else {part: {key: value}}})


def test_values_at_the_ends_of_their_ranges_are_taken():
    schedule = Schedule(steps=0, momentum=0, weight_decay=0, power=0, warmup=1, average=1, aux_weight=0, batch_size=1, validations=1)
    data = DataConfig(size=None, crop=(1, 1), scale=(1, 1), cat_max_ratio=1, split="val")
    config = RunConfig(data, NetworkConfig(output_stride=32), schedule, seed=2**63 - 1)
    assert pickle.loads(pickle.dumps(config)) == config


def test_whole_numbers_keep_the_ids_that_they_had():
    """In Python as they are given; from a file a float's field is a float, and what a tuple holds stays."""
    whole, broken = RunConfig(schedule=Schedule(lr=1)), RunConfig(schedule=Schedule(lr=1.0))
    assert (whole.id[-8:], broken.id[-8:]) == ("42faf768", "afa38944")
    assert from_dict(to_dict(whole)).id == broken.id
    scaled = RunConfig(DataConfig(scale=(1, 2)))
    assert from_dict(to_dict(scaled)).id == scaled.id != RunConfig(DataConfig(scale=(1.0, 2.0))).id


@pytest.mark.parametrize("text, words", [
    (b'{"schedule": {"validations": 0}}', "config.schedule.validations: expected int >= 1, got 0"),
    (b'{"schedule": {"lr": NaN}}', "config.schedule.lr: expected float > 0, got nan"), (b"[]", "holds a list, not a mapping"),
    (b"null", "holds a NoneType"), ("{}".encode("utf-16"), "cannot be read"), (b'{"method": "\xe9"}', "cannot be read"), (None, "is not there"),
])  # fmt: skip
def test_a_bad_file_is_one_line_and_leaves_nothing(runs, tmp_path, capsys, text, words):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_bytes(text)
    assert main(["train", str(path)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not runs.exists()

"""PROFILE=paper against the numbers of the papers and of their released code."""

import dataclasses

import pytest

from segkd.config import Schedule
from segkd.study.numbers.study import open_study
from segkd.study.tables.protocols import PROTOCOLS, network, protocol

# Paper, table (one that is on this data set), data set: learning rate, weight decay, batch, steps, crop. All: SGD, momentum
# 0.9, poly 0.9, no warm-up, auxiliary weight 0.4.
KNOWN = [
    ("lad", "table1", "cityscapes", 0.02, 1e-4, 16, 40000, (512, 1024)), ("lad", "table3", "voc2012", 0.02, 1e-4, 16, 40000, (512, 512)),
    ("lad", "table5", "ade20k", 0.01, 5e-4, 16, 80000, (512, 512)), ("lad", "table5", "voc2012", 0.01, 5e-4, 16, 20000, (512, 512)),
    ("lad", "table5", "coco_stuff10k", 0.01, 5e-4, 16, 20000, (512, 512)),
    ("lad", "table5", "coco_stuff164k", 0.01, 5e-4, 16, 80000, (512, 512)),
    ("fakd", "table1", "ade20k", 0.01, 5e-4, 16, 40000, (512, 512)),
    ("fakd", "table2", "pascal_context", 0.004, 1e-4, 16, 40000, (512, 512)),
    ("fakd", "table3", "cityscapes", 0.01, 5e-4, 16, 40000, (512, 512)), ("fakd", "table3", "voc2012", 0.01, 5e-4, 16, 40000, (512, 512)),
    ("hwd", "table2", "ade20k", 0.01, 1e-4, 8, 40000, (512, 512)), ("hwd", "table3", "cityscapes", 0.01, 1e-4, 8, 40000, (512, 512)),
    ("hwd", "table3", "coco_stuff164k", 0.01, 1e-4, 8, 40000, (512, 512)),
    ("rdd", "table1", "cityscapes", 0.02, 5e-4, 16, 40000, (512, 1024)), ("rdd", "table2", "voc2012", 0.02, 5e-4, 16, 40000, (512, 512)),
    ("rdd", "table3", "ade20k", 0.02, 5e-4, 16, 80000, (512, 512)), ("rdd", "table4", "camvid", 0.02, 5e-4, 16, 40000, (360, 360)),
]  # fmt: skip
WEIGHTS = {"resnet18": "resnet18-imagenet.pth", "mobilenet_v2": "mobilenetv2-imagenet.pth", "resnet50": "imagenet"}


@pytest.mark.parametrize("paper, table, dataset, lr, decay, batch, steps, crop", KNOWN)
def test_every_run_of_a_table_follows_its_protocol(paper, table, dataset, lr, decay, batch, steps, crop):
    study = open_study(paper, "paper", dataset)
    for row in study.rows(table):
        config = study.config(row, 0)
        if row.role == "teacher":
            continue
        assert config.schedule == Schedule("sgd", steps, batch, lr, 0.9, decay, 0.9, 0.0, 0.4, precision="bf16")
        assert config.data.crop == crop and config.data.scale == (0.5, 2.0) and config.network.width == 1
        mmseg = (config.data.continuous_scale, config.data.cat_max_ratio, config.data.photometric)
        assert mmseg == ((True, 0.75, True) if (paper, table) == ("lad", "table5") else (False, 1.0, False))
        encoder = config.network.name.split("/")[1]
        if row.start == "scratch":
            assert config.network.weights is None
        elif encoder in WEIGHTS:
            assert config.network.weights == WEIGHTS[encoder]
        if config.teacher is not None and config.teacher.method == "baseline":
            assert config.teacher.data == config.data and config.teacher.network.weights is not None


def test_pairs_are_the_papers():
    study = open_study("fakd", "paper", "ade20k")
    pairs = {(c.teacher.network.name, c.network.name) for c in study.configs(["table1"]) if c.teacher}
    assert pairs == {
        ("pspnet/resnet101", "pspnet/resnet18"), ("fcn/hrnet_w48", "fcn/hrnet_w18_small"),
        ("deeplabv3plus/resnet101", "deeplabv3plus/mobilenet_v2"), ("isanet/resnet101", "isanet/resnet18"),
    }  # fmt: skip
    assert {c.teacher.schedule.steps for c in study.configs(["table1"]) if c.teacher} == {160000}
    noise = open_study("lad", "paper", "cityscapes")
    assert {c.network.name for c in noise.configs(["noise", "table9"])} == {"stdc/stdc2"}
    assert {c.teacher.network.name for c in open_study("hwd", "paper", "ade20k").configs(["main"]) if c.teacher} == {"deeplabv3/resnet101"}


def test_cirkd_on_voc_has_the_weights_of_its_scripts():
    for dataset, weight in (("voc2012", 0.01), ("cityscapes", None)):
        study = open_study("rdd", "paper", dataset)
        table = "table2" if dataset == "voc2012" else "table1"
        config = next(study.config(r, 0) for r in study.rows(table) if r.label.endswith(": CIRKD"))
        assert config.hyper.get("cirkd", {}).get("pixel_weight") == weight


def test_a_data_set_that_a_paper_does_not_use_says_so():
    found = protocol("fakd", "camvid")
    assert found.crop == (360, 360) and "not a data set of this paper" in found.source and found.schedule.lr == 0.01
    study = open_study("fakd", "paper", "camvid")
    assert study.facts()["protocol"] == found.source and study.data.crop == (360, 360)
    assert "protocol" not in open_study("fakd", "gpu", "camvid").facts()


def test_what_all_protocols_share():
    for found in PROTOCOLS.values():
        common = dataclasses.replace(found.schedule, steps=1, batch_size=1, lr=1.0, weight_decay=0.0)
        assert network(found.student).weights and network("stdc/stdc2").weights is None
        assert found.source and common == Schedule("sgd", 1, 1, 1.0, 0.9, 0.0, 0.9, 0.0, 0.4, precision="bf16")

"""The printed tables: every number of the papers has its row, rows share runs with the default tables, names are checked."""

import csv
import dataclasses

import pytest

from segkd.config import ROOT, DataConfig, NetworkConfig, RunConfig
from segkd.registry import UserError
from segkd.runs import find
from segkd.study.numbers.coverage import coverage
from segkd.study.numbers.study import open_study
from segkd.study.tables.configs import too_small
from segkd.study.tables.papers import PAPERS
from segkd.study.tables.printed import TITLES, also_printed, here, printed_tables, settings
from segkd.study.tables.reported import network_of, reported, short_name

ROMAN = {"Table I": "table1", "Table II": "table2", "Table III": "table3", "text": "dinov2"}
CITED = {"enet", "espnet", "icnet", "fcn", "refinenet", "ocnet"}  # RDD Table 1's, from other papers

pytestmark = pytest.mark.usefixtures("runs")


@pytest.fixture(scope="module")
def values():
    with open(ROOT / "data" / "papers" / "reported.csv", newline="") as file:
        return list(csv.DictReader(file))


def row_of(study, table, label):
    return next(row for row in study.rows(table) if row.label == label)


@pytest.mark.parametrize("metric", ["miou", "macc", "params_m", "flops_g", "dtime_ms", "train_minutes", "mkl_x100"])
def test_every_printed_number_stands_at_one_row(values, metric):
    for paper, titles in TITLES.items():
        for key in titles:
            lines = [v for v in values if v["paper"] == paper and v["metric"] == metric and v["student"] not in CITED]
            lines = [v for v in lines if key == ROMAN.get(v["table"], v["table"].lower().replace(" ", ""))]
            for dataset in {v["dataset"] for v in lines}:
                table = printed_tables(paper, dataset)[key]
                wanted = [v for v in lines if v["dataset"] == dataset]
                if metric in ("miou", "macc"):  # LAD Table 1 prints a test server's scores too
                    wanted = [v for v in wanted if v["split"] == table.source["split"]]
                found = [reported(table, row, metric) for row in table.rows]
                assert sorted(f for f in found if f == f) == sorted(float(v["value"]) for v in wanted), (paper, key)


def test_a_row_stands_beside_its_own_number(values):
    table = printed_tables("lad")["table6"]
    found = {row.label: reported(table, row) for row in table.rows}
    assert found["teacher OCRNet-W48"] == 80.7 and found["teacher PSPNet-R18 + label"] == 79.7
    assert found["PSPNet-R18: CWD from OCRNet-W48"] == 75.0 and found["DeepLabV3-R18: CWD from OCRNet-W48"] == 77.2
    assert found["DeepLabV3-R18: LAD from PSPNet-R18 + label"] == 77.4
    scratch = printed_tables("rdd")["table1"]
    labels = {row.label: reported(scratch, row) for row in scratch.rows}
    assert labels["DeepLabV3-R18 from scratch: RDD"] == 69.78 and labels["DeepLabV3-MBV2: RDD"] == 76.38
    voc = printed_tables("fakd", "voc2012")["table3"]
    assert reported(voc, next(r for r in voc.rows if r.label == "ISANet-R18: baseline")) == float(
        next(v["value"] for v in values if (v["table"], v["dataset"], v["student"], v["method"], v["metric"])
             == ("Table 3", "voc2012", "isanet_resnet18", "baseline", "miou"))
    )  # fmt: skip


def test_what_a_setting_means():
    rows = {key: {r.label: r for r in t.rows} for p in ("lad", "fakd", "rdd") for key, t in
            ((f"{p}/{k}", t) for k, t in printed_tables(p).items())}  # fmt: skip
    assert rows["lad/table9"]["LAD, alpha 0.1, class noise off"].hyper == {"lad": {"alpha": 0.1, "class_noise": False}}
    assert rows["lad/table8"]["STDC2: LAD, consistency off"].hyper == {"lad": {"consistency": 0.0}}
    small_teacher = rows["lad/table7"]["STDC2: LAD, simple to complex"]
    assert (small_teacher.network, small_teacher.teacher) == ("stdc/stdc2", "stdc/stdc1")
    assert rows["fakd/table5"]["FAKD, lambda 2.5"].hyper == {"fakd_cwd": {"lam_max": 2.5}}
    assert rows["rdd/table6"]["RDD, AND"].hyper["rdd"] == {"mode": "and", "warmup": 0.1}
    assert rows["rdd/table7"]["RDD, t = 0.65"].hyper == {"rdd": {"threshold": 0.65}}
    assert rows["rdd/table5"]["TFE alone"].hyper == {"rdd": {"stage": "tfe"}}
    assert rows["rdd/table9"]["CIRKD + RDD"].spec == "kd+cirkd+rdd"
    on_voc = {r.label: r for r in printed_tables("rdd", "voc2012")["table2"].rows}
    assert on_voc["PSPNet-R18: CIRKD"].hyper == {"cirkd": {"pixel_weight": 0.01, "region_weight": 0.01}}


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("profile, dataset", [("quick", "scenes"), ("paper", "cityscapes")])
def test_rows_have_names_of_their_own_and_a_baseline(paper, profile, dataset):
    study = open_study(paper, profile, dataset)
    for key in TITLES[paper]:
        rows = study.rows(key)
        assert len({r.label for r in rows}) == len(rows)
        for row in rows:
            config = study.config(row, 0)
            if row.role == "student" and row.spec != "baseline":
                base = [r for r in rows if r.group == row.group and r.spec == "baseline"]
                assert len(base) == 1 and study.config(base[0], 0).network == config.network


def test_no_printed_table_is_trained_unasked():
    for paper in PAPERS:
        study = open_study(paper)
        assert not set(study.tables) & set(TITLES[paper]) and set(TITLES[paper]) <= set(study.all_tables)


def test_finished_runs_fill_printed_tables():
    lad, fakd, rdd = open_study("lad"), open_study("fakd"), open_study("rdd")
    for study, table, label, printed, row in [
        (lad, "main", "LAD", "table1", "PSPNet-R18: LAD"), (lad, "main", "baseline", "table6", "PSPNet-R18: baseline"),
        (lad, "main", "CWD", "table6", "PSPNet-R18: CWD from DeepLabV3-R101"),
        (lad, "main", "teacher (label-assisted)", "table1", "teacher PSPNet-R18 + label"),
        (fakd, "main", "FAKD", "table5", "FAKD, lambda 1.0"),
        (rdd, "main", "RDD", "table8", "KD + RDD"), (rdd, "stages", "TSE alone (p = 0 %)", "table5", "TSE alone"),
    ]:  # fmt: skip
        assert study.config(row_of(study, table, label), 1).id == study.config(row_of(study, printed, row), 1).id


def test_several_students_are_named_at_the_profiles_width():
    study = open_study("lad", "quick", "scenes")
    config = study.config(row_of(study, "table4", "OCRNet-W18s: CWD"), 0)
    assert (config.network.name, config.network.width) == ("ocrnet/hrnet_w18_small", 0.125)
    assert (config.teacher.network.name, config.teacher.network.width) == ("ocrnet/hrnet_w48", 0.25)
    assisted = study.config(row_of(study, "table7", "STDC1: LAD, complex to simple"), 0).teacher
    assert (assisted.network.name, assisted.network.extra_channels, assisted.method) == ("stdc/stdc2", 1, "lad")


def test_student_and_teacher_network_are_parameters():
    plain = [c.id for c in open_study("lad").configs()]
    assert plain == [c.id for c in open_study("lad", student="pspnet/resnet18").configs()], "the profile's own"
    study = open_study("rdd", "quick", "camvid", student="deeplabv3/resnet18", teacher_network="deeplabv3/resnet50")
    assert study.all_tables["table4"].note == "paper: Table 4, CamVid test, DeepLabV3-R18"
    rows = {row.label: row for row in study.rows("table4")}
    assert set(rows) == {"teacher (plain, larger)", "baseline", "SKD", "IFVD", "CWD", "CIRKD", "RDD"}
    config = study.config(rows["RDD"], 0)
    assert dataclasses.astuple(config.network)[:2] == ("deeplabv3/resnet18", 0.125)
    assert dataclasses.astuple(config.teacher.network)[:2] == ("deeplabv3/resnet50", 0.25)
    assert reported(study.all_tables["table4"], rows["RDD"]) == 68.55
    assert "STUDENT=deeplabv3/resnet18 TEACHER_NETWORK=deeplabv3/resnet50" in study.missing("table4")
    for name in ("student", "teacher_network"):
        with pytest.raises(UserError, match="'deeplabv3/resnet81': did you mean 'deeplabv3/resnet"):
            open_study("rdd", **{name: "deeplabv3/resnet81"})


def test_the_papers_numbers_fit_the_student_and_the_data_set():
    quick = open_study("lad")
    table = quick.all_tables["main"]
    assert table.note == "paper: Table 1, Cityscapes val, PSPNet-R18" and reported(table, row_of(quick, "main", "LAD")) == 76.2
    assert reported(table, row_of(quick, "main", "teacher (label-assisted)")) == 79.7
    elsewhere = open_study("fakd", "quick", "voc2012").all_tables
    assert "VOC 2012" in elsewhere["table3"].note and "ADE20K" in elsewhere["table1"].note


def test_tables_may_name_their_paper():
    assert list(open_study("lad", tables="lad/table3,main").tables) == ["main", "table3"]
    assert list(open_study("rdd", tables="lad/table3").tables) == [] and open_study("rdd", tables="lad/table3").configs() == []
    assert list(open_study("lad", tables="controls").tables) == []  # of the joint comparison
    for wrong, words in (("lad/tabel3", "'tabel3': did you mean 'table3'"), ("lda/table3", "'lda': did you mean 'lad'")):
        with pytest.raises(UserError, match=words):
            open_study("lad", tables=wrong)


def test_the_missing_command_until_nothing_is_missing():
    study = open_study("rdd", "smoke", "scenes", methods="kd+rdd", seeds="1", tables="rdd/table7")
    command = study.missing("table7")
    assert command == "make reproduce PROFILE=smoke DATASET=scenes TABLES=rdd/table7 METHODS=kd+rdd"
    for config in study.configs(["table7"]):
        assert study.missing("table7") == command
        find(config).path.mkdir(parents=True)
        (find(config).path / "result.json").write_text("{}")  # enough to count as finished
    assert study.missing("table7") == "" and study.missing("table8").endswith("TABLES=rdd/table8 METHODS=kd+rdd")


def test_images_too_small_for_a_network_are_said_and_not_trained():
    study = open_study("lad", "smoke", tables="table4", student="ocrnet/hrnet_w18_small")
    assert list(study.summary("table4")["verdict"]) == ["images too small"] * 3 and study.configs() == []
    every = open_study("lad", "smoke", tables="table4")
    assert {c.network.name.split("/")[0] for c in every.configs()} == {"fcn", "stdc"}
    assert "ocrnet" in {c.network.name.split("/")[0] for c in open_study("lad", "quick", tables="table4").configs()}


@pytest.mark.parametrize(
    ("size", "crop", "small"),
    [((128, 192), None, False), ((127, 192), None, True), ((192, 256), (128, 96), True), ((96, 128), (128, 128), True), (None, None, False)],
)
def test_crops_and_images_too_small_for_a_network_or_its_teacher(size, crop, small):
    fits = RunConfig(DataConfig(size=size, crop=crop), NetworkConfig("pspnet/resnet18", 0.125))
    wide = dataclasses.replace(fits, network=NetworkConfig("deeplabv3plus/resnet18", 0.125, output_stride=32))  # asks for 128
    assert not too_small(fits) and too_small(wide) is small and too_small(dataclasses.replace(fits, teacher=wide)) is small
    built = NetworkConfig("smp.Segformer/mit_b0")  # cannot be built without values
    assert [too_small(RunConfig(DataConfig(size=(side, 64)), built)) for side in (31, 32)] == [True, False]


def test_coverage_counts_every_printed_setting():
    found = coverage("smoke", "scenes")
    assert len(found) == 28 and list(found["table"])[:-1] == [key for titles in TITLES.values() for key in titles]
    assert (found["built"] + found["not here"] == found["printed"]).all() and (found["with runs"] == 0).all()
    assert {line["student"] for line in settings("rdd", "table1") if not here(line)} == CITED
    note = printed_tables("rdd")["table1"].note
    assert all(f"{name} " in note for name in CITED) and "ocnet 80.12" in note
    assert int(found.iloc[-1]["not here"]) == len(CITED)


def test_what_a_table_prints_beside_our_rows():
    """LAD's text: on the test server +2.8 over CWD with DeepLabV3-R18; HWD's: the largest ratio is that of bus."""
    lad = also_printed(printed_tables("lad")["table1"])["Cityscapes test, mIoU %"].astype(float)
    assert lad["DeepLabV3-R18: LAD"] - lad["DeepLabV3-R18: CWD"] == pytest.approx(2.8)
    classes = also_printed(printed_tables("hwd")["table1"])["Cityscapes val, TD / NTD"].astype(float)
    assert len(classes) == 19 and classes.idxmax() == "bus" and classes.max() == 374.0
    voc, city = (also_printed(printed_tables("fakd", name)["table3"]) for name in ("", "voc2012"))
    assert len(voc) == len(city) == 28 and all("VOC" in name for name in voc) and all("Cityscapes" in name for name in city)
    assert also_printed(printed_tables("rdd")["table4"]).empty and also_printed(printed_tables("hwd")["table3"]).shape == (7, 1)


def test_names_of_networks():
    pairs = {
        "deeplabv3_mobilenet_v2": "deeplabv3/mobilenet_v2", "stdc1+label": "stdc/stdc1", "hrnet_w48": "fcn/hrnet_w48",
        "ocrnet_hrnet_w18_small+label": "ocrnet/hrnet_w18_small", "dinov2_vits14_lora": "dinov2/vits14",
    }  # fmt: skip
    assert {name: network_of(name) for name in pairs} == pairs
    short = ["DeepLabV3-MBV2", "STDC1", "HRNet-W48", "OCRNet-W18s", "DINOv2-ViT-S"]
    assert [short_name(name) for name in pairs.values()] == short

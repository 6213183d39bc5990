"""A reader's own teacher in a study: checked to the last key, used by every plain student, named on the pages."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from segkd.cli import main
from segkd.config import NetworkConfig, RunConfig, to_dict
from segkd.models import create_model
from segkd.models.weights import content_hash, fingerprint
from segkd.registry import UserError
from segkd.study.numbers.study import open_study
from segkd.study.report.freeze import facts
from segkd.study.tables.own_teacher import as_source, teacher_from_file

NETWORK = "fcn/resnet18@width=0.1875:"


@pytest.fixture
def file(tmp_path, runs):
    """The file of an untrained network with the classes of scenes, of another kind than the profile's teacher."""
    return save(tmp_path / "mine.safetensors", classes=11)


def save(path, **options):
    torch.manual_seed(3)
    model = create_model("fcn", "resnet18", width=0.1875, **options)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return str(path)


def hashes(file):
    """Layout and content."""
    return [of(load_file(file)) for of in (fingerprint, content_hash)]


def test_every_plain_teacher_is_the_file_and_nothing_else_changes(file):
    layout, content = hashes(file)
    plain, own = open_study("all", "smoke"), open_study("all", "smoke", teacher=NETWORK + file)
    for row in own.rows("main") + own.rows("controls"):
        before, after = plain.config(row, 0), own.config(row, 0)
        taught = after if row.role == "teacher" else after.teacher
        if taught is None or taught.method == "lad":
            assert after == before and after.id == before.id
            continue
        wanted = ("fcn/resnet18", 0.1875, "" if row.control == "untrained_teacher" else content, 0)
        found = (taught.network.name, taught.network.width, taught.network.checkpoint_hash, taught.schedule.steps)
        assert found == wanted and after.id != before.id
        if row.role != "teacher":
            assert dataclasses.replace(after, teacher=before.teacher) == before
    assert f"fcn/resnet18 (width 0.1875) from mine.safetensors, not trained here; layout {layout}" in own.facts()["teacher"]


def test_a_study_with_an_own_teacher_runs_and_says_so(file, tmp_path):
    study = open_study("hwd", "smoke", methods="cwd", tables="main", devices="cpu", teacher=NETWORK + file)
    study.run()
    layout, content = hashes(file)
    teacher, student = (study.runs("main", label)[0] for label in ("teacher (plain, larger)", "CWD"))
    assert student.result["origin"]["teacher"]["run"] == teacher.id
    words = f"layout {layout}, content {content}; own score {100 * teacher.result['miou']:.1f} % mIoU on test"
    assert words in study.facts()["teacher"] and words in study.provenance().to_html()
    written = json.dumps(facts(study, {student.id: student}, tmp_path))
    assert words in written and str(tmp_path) not in written
    scores = study.scores("main").set_index("row")["miou"]
    assert scores["teacher (plain, larger)"] == teacher.result["miou"]
    again = teacher_from_file(str(teacher.path), "scenes")  # a run knows its own network
    assert again.label == teacher.config.network.label and again.checkpoint_hash == content
    assert teacher_from_file(str(teacher.path / "model.safetensors"), "scenes") == again
    assert teacher_from_file(as_source(again), "scenes") == again


def test_sizes_stand_behind_the_name(file):
    found = teacher_from_file(f"fcn/resnet18@width=0.1875,output_stride=16:{file}", "scenes")
    assert (found.width, found.output_stride, found.head_channels) == (0.1875, 16, None)
    assert as_source(found) == f"fcn/resnet18@width=0.1875,output_stride=16:{file}"


@pytest.mark.parametrize("options, words", [
    ({"classes": 19}, r"with the 11 classes of scenes has another shape for head.classifier.weight \(19, 24, 1, 1\) where \(11,"),
    ({"classes": 11, "in_channels": 4}, r"has another shape for mean \(1, 4, 1, 1\) where \(1, 3, 1, 1\) is needed"),
    ({"classes": 11, "aux": False}, r"lacks aux_head.0.weight, .* and \d more under aux_head."),
])  # fmt: skip
def test_files_that_do_not_fit_are_refused(options, words, file, tmp_path):
    with pytest.raises(UserError, match=words):
        open_study("hwd", "smoke", teacher=NETWORK + save(tmp_path / "other.safetensors", **options))


@pytest.mark.parametrize("source, words", [
    ("FILE", "which network is it. give NETWORK:FILE, such as"), ("fcn/resnet81:FILE", "did you mean 'fcn/resnet18'"),
    ("fcn/resnet18@wide=2:FILE", "did you mean 'width'"), ("fcn/resnet18@width=wide:FILE", "width=wide is no number"),
    ("fcn/resnet18@width=9:FILE", "width=9"),
])  # fmt: skip
def test_mistakes_in_the_name_are_refused(source, words, file):
    with pytest.raises(UserError, match=words):
        teacher_from_file(source.replace("FILE", file), "scenes")


def test_a_label_assisted_run_and_a_lost_file_are_refused_before_anything_runs(file, tmp_path, capsys):
    config = RunConfig(network=NetworkConfig("fcn/resnet18", 0.1875, extra_channels=1))
    (tmp_path / "run").mkdir()
    save(tmp_path / "run" / "model.safetensors", classes=11, in_channels=4)
    (tmp_path / "run" / "config.json").write_text(json.dumps(to_dict(config)))
    with pytest.raises(UserError, match="reads 4 channels; give a plain teacher"):
        teacher_from_file(str(tmp_path / "run"), "scenes")
    assert main(["reproduce", "--profile", "smoke", "--teacher", "fcn/resnet18:nowhere.pth"]) == 2
    printed = capsys.readouterr().err
    assert "'nowhere.pth': no file at" in printed and len(printed.splitlines()) == 1 and not (tmp_path / "runs").exists()

"""A reader's own teacher in a study: recognised, used by every plain student, named on the pages."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from segkd.cli import main
from segkd.models import create_model
from segkd.models.weights import content_hash, fingerprint
from segkd.registry import UserError
from segkd.runs import find
from segkd.study.report.freeze import facts
from segkd.study.tables.study import open_study


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The file of an untrained network with the classes of scenes, of another kind than the profile's teacher."""
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "runs"))
    return save(tmp_path / "mine.safetensors", classes=11)


def save(path, **options):
    torch.manual_seed(3)
    model = create_model("fcn", "resnet18", width=0.1875, **options)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    path.with_suffix(".json").write_text(json.dumps([f(model.state_dict()) for f in (fingerprint, content_hash)]))
    return str(path)


def test_every_plain_teacher_is_the_file_and_nothing_else_changes(file):
    layout, content = json.loads(open(file.replace(".safetensors", ".json")).read())
    plain, own = open_study("all", "smoke"), open_study("all", "smoke", teacher=file)
    for row in own.rows("main") + own.rows("controls"):
        before, after = plain.config(row, 0), own.config(row, 0)
        taught = after if row.role == "teacher" else after.teacher
        if taught is None or taught.method == "lad":
            assert after == before and after.id == before.id
            continue
        wanted = ("fcn/resnet18", 0.1875, content, 0)
        if row.control == "untrained_teacher":
            wanted = ("fcn/resnet18", 0.1875, "", 0)
        found = (taught.network.name, taught.network.width, taught.network.checkpoint_hash, taught.schedule.steps)
        assert found == wanted and after.id != before.id
        if row.role != "teacher":
            assert dataclasses.replace(after, teacher=before.teacher) == before
    assert f"fcn/resnet18 (width 0.1875) from mine.safetensors, not trained here; layout {layout}" in own.facts()["teacher"]


def test_a_study_with_an_own_teacher_runs_and_says_so(file, tmp_path):
    study = open_study("hwd", "smoke", methods="cwd", tables="main", devices="cpu", teacher=file)
    study.run()
    layout, content = json.loads(open(file.replace(".safetensors", ".json")).read())
    rows = {row.label: row for row in study.rows("main")}
    teacher = find(study.config(rows["teacher (plain, larger)"], 0))
    student = find(study.config(rows["CWD"], 0))
    assert student.result["origin"]["teacher"]["run"] == teacher.id
    words = f"layout {layout}, content {content}; own score {100 * teacher.result['miou']:.1f} % mIoU on test"
    assert words in study.facts()["teacher"] and words in study.provenance().to_html()
    written = json.dumps(facts(study, {student.id: student}, tmp_path))
    assert words in written and str(tmp_path) not in written
    scores = study.scores("main").set_index("row")["miou"]
    assert scores["teacher (plain, larger)"] == teacher.result["miou"]


def test_files_that_cannot_teach_are_refused_before_anything_runs(file, tmp_path, capsys):
    with pytest.raises(UserError, match="knows 19 classes, scenes has 11"):
        open_study("hwd", "smoke", teacher=save(tmp_path / "city.safetensors"))
    with pytest.raises(UserError, match="reads 4 channels; give a plain teacher"):
        open_study("hwd", "smoke", teacher=save(tmp_path / "label.safetensors", classes=11, in_channels=4))
    assert main(["reproduce", "--profile", "smoke", "--teacher", "nowhere.pth"]) == 2
    printed = capsys.readouterr().err
    assert "'nowhere.pth': no file at" in printed and len(printed.splitlines()) == 1 and not (tmp_path / "runs").exists()

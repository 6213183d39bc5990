"""Runs: exact resume, exact cohorts, whole files, locks. Real training at a tiny size."""

import dataclasses

import pytest
import torch

from segkd.config import RunConfig, Schedule
from segkd.losses import list_methods
from segkd.registry import UserError
from segkd.runs import find, load_run, run, run_cohort, split_of
from segkd.train import loop, state
from segkd.train.optim import poly
from segkd.train.runtime import derive, pick_device
from segkd.train.teacher import Teacher, other_names
from segkd.train.trainee import Trainee, build_network
from tests.train.harness import (
    CPU,
    DATA,
    LABEL_TEACHER,
    NETWORK,
    PLAIN,
    SCHEDULE,
    STATEFUL,
    TEACHER,
    Stop,
    assert_same,
    scheduled,
    stop_at,
    student,
    weights,
)

COMPOSED = ("baseline", "lad+cwd", "kd+cirkd+rdd", "hwd+fakd_cwd", "lad+hwd+rdd", "lad+fakd_cwd+rdd", "cwd+skd", "kd+at+rdd")
ALONE = [name for name in list_methods() if name not in ("lad", "rdd", "fakd_cwd")]


@pytest.mark.parametrize(
    "method", ["lad", "fakd_cwd", "kd+rdd", STATEFUL, *(pytest.param(m, marks=pytest.mark.slow) for m in (*ALONE, *COMPOSED))]
)
def test_resume_is_exact(runs, monkeypatch, tmp_path, method):
    config = student(method)
    straight = run(config, "cpu")
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "again"))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)  # after every step
    if config.teacher:
        run(config.teacher, "cpu")
    with pytest.raises(Stop):
        run(config, "cpu", stop_at(4))
    broken = find(config)
    assert not broken.done and len(list(broken.path.glob("checkpoint-*.pt"))) == 2
    resumed = run(config, "cpu")
    assert weights(resumed) == weights(straight)
    assert resumed.result["confusion"] == straight.result["confusion"] and resumed.metrics() == straight.metrics()
    ours, theirs = (state.load_checkpoint(r.path) for r in (resumed, straight))
    for part in ("modules", "optimiser"):  # queues, covariances, the discriminator and its own optimiser
        assert_same(ours[part], theirs[part], part)
    snapshots = [{path.name: path.read_bytes() for path in r.path.glob("snapshot-*")} for r in (resumed, straight)]
    assert snapshots[0] == snapshots[1] and len(snapshots[0]) == 3


@pytest.mark.parametrize("method", [*ALONE, "kd+rdd"])
def test_auxiliary_scores_may_lie_on_a_coarser_grid(runs, method):
    """As beside DeepLabV3+'s decoder: 12x16 cells of scores, 6x8 of the auxiliary ones."""
    network, short = dataclasses.replace(NETWORK, name="deeplabv3plus/resnet18"), dataclasses.replace(SCHEDULE, steps=1, validations=1)
    teacher = RunConfig(DATA, dataclasses.replace(network, width=0.1875), dataclasses.replace(short, steps=0))
    found = run(student(method, network=network, schedule=short, teacher=None if method == "baseline" else teacher))
    assert found.done and all(torch.tensor(row["loss"]).isfinite() for row in found.metrics() if row["kind"] == "train")


def test_masks_are_learnt_before_the_first_step(runs):
    found = run(student("maskd", hyper={"mask_share": 1.0}), "cpu")
    tokens = state.load_checkpoint(found.path)["modules"]["maskd.tokens"]
    untouched = run(student("maskd", hyper={"mask_share": 0.0}), "cpu")
    start = state.load_checkpoint(untouched.path)["modules"]["maskd.tokens"]
    assert tokens.shape == start.shape == (8, 11) and not torch.equal(tokens, start)
    assert weights(found) != weights(untouched)


def test_an_untrained_teacher_is_a_run_of_no_steps(runs):
    untrained = scheduled(TEACHER, steps=0)
    found = run(student("cwd", teacher=untrained), "cpu")
    teacher = find(untrained)
    start = build_network(untrained, 11).state_dict()
    assert teacher.done and 0 <= teacher.result["miou"] < 0.3 and found.done
    assert all(torch.equal(value, start[key]) for key, value in teacher.load_model().state_dict().items())


def test_the_mean_of_the_last_weights_is_the_result(runs, monkeypatch, tmp_path):
    """Steps 5 and 6 of 6; the same bits after a kill between them, and another run than one without the mean."""
    plain = student("baseline")
    config = scheduled(plain, average=0.33)
    last = []
    monkeypatch.setattr(loop, "_validate", lambda trainee, val, after=loop._validate: (
        last.append({key: value.clone() for key, value in trainee.model.state_dict().items()}), after(trainee, val),
    ))  # fmt: skip
    whole = run(config)
    found = whole.load_model().state_dict()
    for key in ("head.classifier.weight", "encoder.bn1.running_var"):
        assert torch.allclose(found[key], (last[-1][key] + last[-2][key]) / 2, atol=1e-7) and not torch.equal(found[key], last[-1][key])
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "again"))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Stop):
        run(config, report=stop_at(6))
    assert weights(run(config)) == weights(whole)
    assert config.id != plain.id and scheduled(config, average=SCHEDULE.average).id == plain.id


def test_what_a_run_has_at_a_step_it_has_though_its_time_is_over_then(runs, monkeypatch, tmp_path):
    config = student("baseline")
    whole = run(config)
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "again"))
    for step in (3, 6):  # of both validations, and of the snapshot half-way

        def late(name, row, step=step):
            if row["step"] == step:
                raise loop.OutOfTime

        with pytest.raises(loop.OutOfTime):
            run(config, report=late)
    again = run(config)
    assert again.metrics() == whole.metrics() and {p.name for p in again.path.glob("*.safetensors")} == {p.name for p in whole.path.glob("*.safetensors")}


def test_a_shuffled_teacher_calls_every_class_by_anothers_name(runs):
    own, shuffled = (student("kd", teacher_classes=value) for value in ("own", "shuffled"))
    assert own.id != shuffled.id and student("kd").id == own.id
    assert weights(run(own, "cpu")) != weights(run(shuffled, "cpu"))
    order = other_names(11, seed=0)
    assert sorted(order) == list(range(11)) and all(order[c] != c for c in range(11))
    model = find(TEACHER).load_model()
    images, labels = torch.rand(2, 3, 48, 64), torch.zeros(2, 48, 64, dtype=torch.long)
    plain, renamed = (Teacher(model, None, 0, flag)(images, labels, 0) for flag in (False, True))
    assert torch.equal(renamed.logits, plain.logits[:, order]) and torch.equal(renamed.feature, plain.feature)
    weight, bias = renamed.classifier
    again = torch.einsum("ca,bahw->bchw", weight, renamed.feature) + bias[:, None, None]
    torch.testing.assert_close(again, renamed.logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="shuffled"):
        run(student("kd", teacher_classes="shufled"), "cpu")


def test_a_cohort_gives_the_bits_of_runs_alone(runs, monkeypatch, tmp_path):
    configs = [student(m) for m in ("hwd", "fakd_cwd", "kd+rdd", "cwd")]
    together = run_cohort(configs, "cpu")
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "alone"))
    for config, other in zip(configs, together):
        alone = run(config, "cpu")
        assert weights(alone) == weights(other) and alone.result["miou"] == other.result["miou"]


def test_a_finished_run_is_returned_at_once(runs):
    first = run(student("baseline"), "cpu")
    stamps = {p: p.stat().st_mtime_ns for p in first.path.iterdir()}
    assert run(student("baseline"), "cpu").result == first.result
    assert {p: p.stat().st_mtime_ns for p in first.path.iterdir()} == stamps
    names = {p.name for p in first.path.iterdir()}
    assert {"config.json", "env.json", "metrics.jsonl", "model.safetensors", "result.json"} <= names
    assert load_run(first.id).config == first.config


def test_result_holds_what_the_contract_says(runs):
    found = run(LABEL_TEACHER, "cpu").result
    val = [m["miou"] for m in find(LABEL_TEACHER).metrics() if m["kind"] == "val"]
    assert found["split"] == "test" and found["images"] == 4 and found["label_input"]
    assert found["val_last"] == val[-1] and found["val_best"] == max(val) and len(val) == 2
    assert found["val_last5"] == pytest.approx(sum(val) / 2)
    assert len(found["iou"]) == 11 and sum(map(sum, found["confusion"])) > 0 and found["seconds_per_step"] > 0


def test_training_lowers_the_loss():
    config = scheduled(PLAIN, steps=40)
    trainee = Trainee(config, 11, None, CPU)
    torch.manual_seed(0)
    images, labels = torch.rand(2, 3, 48, 64), torch.randint(0, 2, (2, 6, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    losses = [trainee.train_step(images, labels, None)["loss"] for _ in range(40)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_write_whole_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def half(temporary):
        temporary.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(UserError, match="file: cannot be written"):
        state.write_whole(path, half)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_runs_of_a_cohort_must_share_their_batch(runs):
    with pytest.raises(ValueError, match="must share"):
        run_cohort([student("baseline"), student("baseline", seed=1)])


def test_mistakes_leave_nothing_behind(runs):
    with pytest.raises(UserError, match="did you mean"):
        run(student("hwdd"))
    with pytest.raises(UserError, match="needs a teacher"):
        run(dataclasses.replace(student("kd"), teacher=None))
    assert not list(runs.glob("*")) if runs.exists() else True


def test_learning_rate_and_seeds():
    schedule = Schedule(steps=100, lr=0.1)
    assert poly(schedule, 0) == 0.1 and poly(schedule, 50) == pytest.approx(0.1 * 0.5**0.9) and poly(schedule, 99) > 0
    assert derive(0, 1, "a") != derive(0, 1, "b") and derive(0, "dropout") == derive(0, "dropout") < 2**63
    assert loop.validation_steps(student("baseline")) == {3, 6}


def test_unknown_device():
    with pytest.raises(UserError, match="is not a device"):
        pick_device("gpux")


def test_a_run_keeps_the_counts_of_each_test_image(runs):
    r = run(student("baseline"))
    counts, confusion = r.images(), torch.tensor(r.result["confusion"])
    assert counts.shape == (4, 3, 11) and counts.dtype == "int64"
    assert counts.sum(0).tolist() == [confusion.diag().tolist(), confusion.sum(1).tolist(), confusion.sum(0).tolist()]
    test = split_of(r.config, "test")
    for (_, labelled, guessed), label in zip(counts, test.labels):
        assert labelled.tolist() == [int((label == c).sum()) for c in range(11)]
        assert guessed.sum() == labelled.sum()  # each labelled pixel is given one class
    (r.path / "images.npz").unlink()
    assert r.images() is None


def test_a_run_keeps_its_network_half_way(runs, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    r = run(scheduled(PLAIN, steps=2, validations=1))
    saved = state.load_checkpoint(r.path), torch.load(state.checkpoints(r.path)[1], weights_only=True)
    assert [s["step"] for s in saved] == [2, 1]
    for percent, want in ((100, saved[0]["model"]), (50, saved[1]["model"])):
        found = r.load_model(percent=percent).state_dict()
        assert found.keys() == want.keys() and all(torch.equal(found[name], want[name]) for name in found)
    with pytest.raises(UserError, match="snapshot-075.safetensors is not there"):
        r.load_model(percent=75)

"""TensorBoard files beside the log: the same numbers, none twice after a stop, one clear line where it is not installed."""

import os
import sys
import types

import pytest

from segkd.cli import main
from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.registry import UserError
from segkd.runs import run
from segkd.train import loop

DATA = DataConfig(size=(33, 40), train_limit=4, eval_limit=2)
CONFIG = RunConfig(DATA, NetworkConfig("fcn/resnet18", 0.0625), Schedule("adamw", steps=4, batch_size=2, validations=2))


class Writer:
    """Stands for torch's SummaryWriter, which needs TensorBoard: keeps what it is given and leaves a file as that does."""

    made: list["Writer"] = []

    def __init__(self, log_dir, purge_step=None):
        self.folder, self.purge_step, self.scalars = log_dir, purge_step, []
        (loop.Path(log_dir) / f"events.out.tfevents.{len(self.made)}").write_text("")
        self.made.append(self)

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, value, step))

    def flush(self):
        pass

    def close(self):
        self.scalars.append("closed")


@pytest.fixture(autouse=True)
def wanted(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SEGKD_TENSORBOARD", "1")
    monkeypatch.setattr(Writer, "made", [])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))


def logged(rows):
    numbers = [(row, name) for row in rows for name in row if name not in ("kind", "step", "iou")]
    return [(f"{row['kind']}/{name}", row[name], row["step"]) for row, name in numbers]


def test_every_number_of_the_log_is_there_once():
    found = run(CONFIG, "cpu")
    (writer,) = Writer.made
    assert writer.folder == str(found.path) and writer.purge_step is None
    assert writer.scalars == [*logged(found.metrics()), "closed"]
    assert {"train/loss", "train/lr", "val/miou"} <= {tag for tag, *_ in writer.scalars[:-1]}


def test_after_a_stop_a_new_file_goes_on_from_the_checkpoint(monkeypatch):
    def stop(run_id, row):
        if row["step"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, "cpu", stop)
    found = run(CONFIG, "cpu")
    before, after = Writer.made
    assert after.purge_step == 3 and after.scalars[:-1] and before.scalars + after.scalars[:-1] == logged(found.metrics())


def test_nobody_asked():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGKD_TENSORBOARD", "0")
        run(CONFIG, "cpu")
    assert not Writer.made


def test_the_flag_is_heard_by_worker_processes(monkeypatch, capsys):
    monkeypatch.setenv("SEGKD_TENSORBOARD", "0")
    assert main(["train", "nowhere.json", "--tensorboard"]) == 2 and os.environ["SEGKD_TENSORBOARD"] == "1"
    assert "nowhere.json" in capsys.readouterr().err


def test_not_installed_is_one_line(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard")
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as where it is not installed
    with pytest.raises(UserError, match="TensorBoard is not installed; pip install tensorboard$"):
        run(CONFIG, "cpu")

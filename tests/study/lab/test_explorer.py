"""The menus of the tour, moved as a reader would: what they offer, what is drawn, what is kept, what is said without runs."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from segkd.registry import UserError
from segkd.runs import run
from segkd.study.lab.explorer import choices, explore, missing_runs
from segkd.study.numbers.study import open_study


@pytest.fixture(scope="module")
def study(shared_runs):
    """A smoke study with baseline and CWD for two seeds, both teachers for the first."""
    made = open_study("all", "smoke", "scenes", seeds="2", methods="cwd", tables="main")
    for row in made.rows("main"):
        for seed in made.seeds if row.role == "student" else [0]:
            run(made.config(row, seed), "cpu")
    return made


@pytest.fixture(scope="module")
def opened(study):
    """Menus that the tests share: each new set reads networks and draws."""
    return explore(study, image=1)


@pytest.fixture
def menus(opened):
    """The shared menus, put back to where they began."""
    for side, row in zip(opened.sides, ("baseline", "CWD")):
        side.network.value, side.row.value, side.seed.value = side.network.options[0], row, 0
    opened.image.value = 1
    return opened


def pixels(menus) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(menus.picture.value)).convert("RGB"))


def test_every_finished_run_is_offered_once(study):
    runs = choices(study)
    assert len(runs) == len({r.id for r in runs.values()}) == 7  # CWD's teacher of seed 1 is a run of that row too
    rows = {row for _, row, _ in runs}
    assert rows == {"baseline", "CWD", "teacher (plain, larger)", "teacher (label-assisted)"}


def test_menus_start_as_asked_and_offer_what_fits(menus):
    left, right = menus.sides
    assert (left.row.value, right.row.value) == ("baseline", "CWD") and left.seed.options == (0, 1)
    right.network.value = next(name for name in right.network.options if "sees labels" in name)
    assert right.row.options == ("teacher (label-assisted)",) and right.seed.options == (0,)
    assert "lad" in menus.status.value and menus.picture.value.nbytes > 10_000


def test_each_menu_changes_the_picture(menus):
    right = menus.sides[1]
    seen = [pixels(menus)]
    for menu, value in (
        (menus.image, 2), (menus.target, menus.target.options[0][1]), (right.seed, 1), (right.row, "baseline"),
        (right.network, right.network.options[-1]), (menus.image, 1),
    ):  # fmt: skip
        menu.value = value
        seen.append(pixels(menus))
        assert seen[-1].shape != seen[-2].shape or (seen[-1] != seen[-2]).any(), menu.description


def test_back_at_the_start_is_the_first_picture(menus):
    before = pixels(menus)
    menus.image.value = 2
    menus.image.value = 1
    assert np.array_equal(pixels(menus), before)


def test_a_network_is_read_and_asked_once(menus, monkeypatch):
    from segkd.study.lab import explorer

    menus.image.value = 3
    menus.image.value = 1
    for name in ("look", "stage_layercam", "loaded"):
        monkeypatch.setattr(explorer, name, lambda *a: pytest.fail("asked again"))
    menus.image.value = 3
    assert menus.image.value == 3 and "drawn in" in menus.status.value


def test_one_move_draws_once(menus, monkeypatch):
    drawn = []
    monkeypatch.setattr(menus, "_draw", lambda: drawn.append(1))
    menus.sides[0].network.value = menus.sides[0].network.options[-1]  # moves method and seed as well
    menus.image.value = 5
    assert len(drawn) == 2


def test_a_page_without_a_kernel_shows_the_picture(menus):
    import base64

    bundle = menus._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == bytes(menus.picture.value)
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == menus.panel.model_id


def test_what_goes_wrong_is_said_below_the_picture(menus, monkeypatch):
    def broken() -> None:
        raise UserError("weights of <b> are gone")

    monkeypatch.setattr(menus, "_draw", broken)
    menus.image.value = 4
    assert "weights of &lt;b&gt; are gone" in menus.status.value


def test_label_assisted_teacher_reads_the_label(study):
    menus = explore(study, 0, ("teacher (label-assisted)", "baseline"))
    keys = [side.key for side in menus.sides]
    assert [menus._input(key, 0).shape[1] for key in keys] == [4, 3]


def test_one_run_is_enough(study):
    table = study.all_tables["main"]
    only = replace(study, seeds=[0], all_tables={"main": replace(table, rows=table.rows[:1])})
    menus = explore(only, 0)
    assert menus.sides[0].key == menus.sides[1].key


def test_without_runs_it_names_the_command(study, monkeypatch, tmp_path):
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path))
    for found in (explore(study), missing_runs(study)):
        assert "`make reproduce PROFILE=smoke METHODS=cwd`" in found.data
    assert missing_runs(study).data.startswith("0 of 8 runs")


def test_all_there_needs_no_command(study):
    assert missing_runs(replace(study, seeds=[0])).data == "4 of 4 runs are there."


def test_an_image_that_is_not_there(study):
    with pytest.raises(UserError, match="image 12: the test split of scenes has images 0 to 11"):
        explore(study, image=12)

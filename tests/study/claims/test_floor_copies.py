"""The rounding floor: copies of a run differ by the last digit of their start alone, and their spread is what is computed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from segkd.config import DataConfig, NetworkConfig, RunConfig, Schedule
from segkd.runs import run
from segkd.study.claims import floor
from segkd.study.numbers.statistics import pooled_spread
from segkd.study.numbers.study import open_study
from segkd.train.trainee import build_network

DATA = DataConfig(size=(33, 40), train_limit=4, eval_limit=2)
PLAIN = RunConfig(DATA, NetworkConfig("fcn/resnet18", 0.0625), Schedule("adamw", steps=2, batch_size=2, validations=1))


@pytest.mark.parametrize("precision, step, most", [("float32", 2.5e-7, 0.9), ("float64", 1.3e-15, 0.95)])  # 1e-7, then a rounding of up to 1.2e-7
def test_a_copy_starts_one_rounding_off(precision, step, most):
    exact = replace(PLAIN, schedule=replace(PLAIN.schedule, precision=precision))
    plain, copy, other, again = (build_network(replace(exact, rounding=k), 11) for k in (0, 1, 2, 1))
    for (name, ours), theirs in zip(copy.named_parameters(), plain.parameters()):
        assert ours.dtype == getattr(torch, precision) and torch.allclose(ours, theirs, rtol=step, atol=0), name
    share = lambda a, b: np.mean(np.concatenate([(p != q).ravel().numpy() for p, q in zip(a.parameters(), b.parameters())]))  # noqa: E731
    assert 0.2 < share(plain, copy) < most and 0.2 < share(copy, other) < most and share(copy, again) == 0
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), copy.buffers()))


def test_a_copy_is_a_run_of_its_own_with_another_score(runs):
    copy = replace(PLAIN, rounding=1)
    assert len({PLAIN.id, copy.id, replace(PLAIN, rounding=2).id}) == 3
    ours, theirs = run(PLAIN, "cpu"), run(copy, "cpu")
    losses = [next(row["loss"] for row in r.metrics() if row["kind"] == "train") for r in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    gaps = [float((a - b).detach().abs().max()) for a, b in zip(ours.load_model().parameters(), theirs.load_model().parameters())]
    assert max(gaps) > 1e-6  # two steps amplify the last digit


def test_the_table_has_whole_chains_of_the_first_seed():
    study = open_study("all", tables="floor", seeds="3,5")
    configs = study.configs()
    assert {c.seed for c in configs} == {3} and len(configs) == 12
    assert open_study("all").tables.keys().isdisjoint({"floor"})
    rows = {row.label: study.config(row, 3) for row in study.rows("floor")}
    main = {row.label: study.config(row, 3) for row in study.rows("main")}
    assert rows["CWD"] == main["CWD"] and rows["baseline"] == main["baseline"]
    second = replace(main["CWD"], rounding=2, teacher=replace(main["CWD"].teacher, rounding=2))
    assert rows["CWD, rounding 2"] == second
    assert rows["teacher (plain, larger), rounding 2"] == second.teacher


def lines(scores: dict[tuple[str, str, int, int], float]) -> pd.DataFrame:
    """Tidy results of the table from {(role, method, seed, copy): points}."""
    rows = [(*key[:3], f"rounding={key[3]}", points / 100) for key, points in scores.items()]
    return pd.DataFrame(rows, columns=["role", "method", "seed", "level", "value"]).assign(paper="all", table="floor", metric="miou")


def test_the_floor_pools_copies_and_seeds_apart():
    base = {("student", "baseline", 0, k): v for k, v in enumerate((30.0, 30.2, 29.8, 30.4))}
    cwd = {("student", "cwd", 0, k): v for k, v in enumerate((33.0, 34.0, 33.5, 32.5))}
    seeds = {("student", "baseline", 1, 0): 31.0, ("student", "cwd", 1, 0): 35.0}
    one_teacher = {("teacher", "baseline", 0, 0): 40.0}  # is not copied: has no floor
    found = floor.floors_of(lines({**base, **cwd, **seeds, **one_teacher}))
    assert list(found) == ["student"]
    expected = np.mean([np.var(list(part.values()), ddof=1) for part in (base, cwd)]) ** 0.5
    assert found["student"].rounding.sd == pytest.approx(expected) and found["student"].rounding.df == 6
    assert found["student"].rounding.runs == 8
    assert found["student"].seeds.sd == pytest.approx(((0.5 + 2.0) / 2) ** 0.5)  # variances of (30, 31) and (33, 35)
    # t with 6 degrees of freedom: 2.4469; a difference of two rows, over five seeds
    assert floor.reach(found, ["student", "student"], (1, -1), 5) == pytest.approx(2.44691 * expected * math.sqrt(2 / 5), rel=1e-5)
    assert math.isnan(floor.reach(found, ["student", "teacher"], (1, -1), 5)) and math.isnan(floor.reach({}, ["student"], (1,), 1))
    assert floor.floors_of(lines({**seeds, **one_teacher})) == {}


def test_the_interval_of_a_pooled_spread_holds_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(0)
    found = [pooled_spread(draws.normal(5 * g, 0.3, 4) for g in range(3)) for _ in range(2000)]
    assert abs(np.mean([one.low <= 0.3 <= one.high for one in found]) - 0.95) < 0.015
    assert pooled_spread([[1.0], []]).df == 0 and pooled_spread([[2.0, 2.0, 2.0]]).sd == 0
    assert str(pooled_spread([[1.0, 2.0], [3.0]])) == "±0.7 (0.3 to 22.6; 2 runs)"

"""What a comparison comes to: time is of steps measured by themselves."""

import numpy as np
import pytest
from scipy import stats

from segkd.study.claims import verdicts as claims
from segkd.study.claims.parts import config_of
from segkd.study.claims.tests import cwd, hwd
from segkd.study.tables import step_times
from segkd.study.tables.study import open_study


def outcome(study):
    return claims.evaluate(study, ["hwd-14"])[0]


def test_time_is_of_steps_measured_by_themselves(tmp_path, monkeypatch):
    """Paired by the rounds of the benchmark, with a margin; no run is asked, and none is trained for it."""
    study = open_study("all", seeds=3)
    table = tmp_path / "methods.csv"
    kinds = [step_times.digest(config_of(study, cell, 0)) for cell in (cwd, hwd)]
    monkeypatch.setattr(step_times, "ALONE", table)
    assert outcome(study).verdict == "not run" and "benchmarks/methods.py --profile quick" in outcome(study).reason
    assert claims.wanted_configs(study, ["hwd-14"]) == []
    for slower, verdict in ((1.05, "supported"), (1.25, "contradicted")):
        own = [100.0, 104.0, 99.0, 120.0]
        other = [slower * ms * more for ms, more in zip(own, (1.001, 0.999, 1.0, 1.002))]
        table.write_text("kind,rounds\n" + "".join(f"{kind},{' '.join(map(str, ms))}\n" for kind, ms in zip(kinds, (own, other))))
        step_times.rounds.cache_clear()
        line = claims.frame([outcome(study)]).iloc[0]
        assert line["verdict"] == verdict and line["unit"] == "ratio" and line["n"] == 4
        assert line["effect"] == pytest.approx(1 / slower, rel=1e-2) and line["limit"] == pytest.approx(1 / 1.1)
        gaps = np.log(own) - np.log(other)
        assert (line["low"], line["high"]) == pytest.approx(np.exp(stats.t.interval(0.95, 3, gaps.mean(), stats.sem(gaps))))
        assert "seed" not in line["reason"]

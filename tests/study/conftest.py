"""For tests of studies: a folder of runs of their own."""

import pytest


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Where this test's runs are; there is none yet."""
    monkeypatch.setenv("SEGKD_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"

"""The batch of a step is a function of (data, seed, step, rank): any number of processes sees the same images."""

from dataclasses import replace

import pytest
import torch

from segkd.config import DataConfig, RunConfig, Schedule
from segkd.data.store import pack
from segkd.train.loop import training_batch
from tests.train.harness import CPU


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return pack("scenes", "train", (24, 32), packed_dir=tmp_path_factory.mktemp("packed"), limit=9)


PAPERS = RunConfig(data=DataConfig(size=(24, 32), crop=(20, 20)), schedule=Schedule(batch_size=6), seed=4)
MMSEG = replace(PAPERS, data=replace(PAPERS.data, continuous_scale=True, cat_max_ratio=0.75, photometric=True))


@pytest.mark.parametrize("config", [PAPERS, MMSEG], ids=["papers", "mmseg"])
@pytest.mark.parametrize("world", [2, 4])
def test_the_union_over_ranks_is_the_batch_of_one_process(packed, config, world):
    for step in (0, 7):
        whole = training_batch(packed, config, step)
        parts = [training_batch(packed, config, step, CPU, rank, world) for rank in range(world)]
        for i in range(2):
            assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])


def test_steps_and_seeds_differ_and_options_count(packed):
    first = training_batch(packed, PAPERS, 0)
    assert first[0].shape == (6, 3, 20, 20) and first[1].shape == (6, 20, 20)
    others = [(PAPERS, 1), (replace(PAPERS, seed=5), 0), (MMSEG, 0)]
    assert all(not torch.equal(first[0], training_batch(packed, *other)[0]) for other in others)
    assert all(torch.equal(a, b) for a, b in zip(first, training_batch(packed, PAPERS, 0)))

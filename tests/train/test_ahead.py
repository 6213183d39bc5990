"""Batches made ahead: the same ones in the same order, begun a step early, errors where they are due."""

import threading

import pytest

from segkd.train.ahead import ahead


def test_steps_in_turn_and_after_a_gap():
    calls = []

    def make(step):
        calls.append(step)
        return 10 * step

    with ahead(make, 6) as batches:
        assert [batches(step) for step in (2, 3, 5)] == [20, 30, 50]
    assert calls == [2, 3, 4, 5]  # each once; none at or after the last step


def test_the_next_batch_is_made_meanwhile():
    begun = [threading.Event() for _ in range(3)]

    def make(step):
        begun[step].set()
        return threading.current_thread()

    with ahead(make, 3) as batches:
        assert batches(0) is not threading.main_thread()
        assert begun[1].wait(10)  # nobody asked for it yet
        assert not begun[2].is_set()


def test_an_error_comes_with_its_own_step():
    def make(step):
        if step == 1:
            raise OSError("image 1 cannot be read")
        return step

    with ahead(make, 3) as batches:
        assert batches(0) == 0
        with pytest.raises(OSError, match="image 1"):
            batches(1)


def test_leaving_early_leaves_no_thread_behind():
    with pytest.raises(KeyboardInterrupt), ahead(lambda step: step, 5) as batches:
        batches(0)
        raise KeyboardInterrupt
    assert not [t for t in threading.enumerate() if t.name.startswith("batch")]

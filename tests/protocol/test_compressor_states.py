"""Compressor states at the master: whole or in parts, in a file, and never a mixture of two."""

from __future__ import annotations

import os

import numpy as np
import pytest

from gcdl.protocol.compressor_states import CompressorStates
from gcdl.protocol.tasks import WorkerState

BYTES = 10


def part(worker, accepted, value, start=0, stop=BYTES):
    return WorkerState(worker, accepted, np.full(stop - start, value, dtype=np.uint8), start)


def test_a_state_is_known_when_all_of_its_parts_have_come_in_order():
    states = CompressorStates(3, BYTES)
    accepted = np.array([-1, 4, 7])
    assert states.missing(accepted) == [1, 2]
    states.take(part(1, 4, 5))
    for start, stop in ((0, 4), (4, 8)):
        states.take(part(2, 7, 9, start, stop))
        assert states.missing(accepted) == [2]
    states.take(part(2, 7, 9, 8, 10))
    assert states.missing(accepted) == []
    assert {worker: state.tolist() for worker, state in states.known(accepted).items()} == {1: [5] * BYTES, 2: [9] * BYTES}


@pytest.mark.parametrize(
    "broken", [[(7, 0, 4), (7, 8, 10)], [(7, 4, 10)], [(6, 0, 4), (7, 4, 10)], [(7, 0, 4), (7, 0, 6)]], ids=str
)
def test_parts_that_do_not_fit_together_are_no_state(broken):
    states = CompressorStates(1, BYTES)
    states.take(part(0, 3, 1))
    for accepted, start, stop in broken:
        states.take(part(0, accepted, 9, start, stop))
    assert states.missing(np.array([7])) == [0]
    assert states.known(np.array([7])) == {}
    states.take(part(0, 7, 2))
    assert states.known(np.array([7]))[0].tolist() == [2] * BYTES


def test_a_full_disk_makes_it_a_state_that_has_not_come(monkeypatch):
    states = CompressorStates(1, BYTES)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    states.take(part(0, 2, 1))
    assert states.missing(np.array([2])) == [0]
    monkeypatch.undo()
    states.take(part(0, 2, 1))
    assert states.missing(np.array([2])) == []


def test_the_file_has_no_name(tmp_path):
    states = CompressorStates(2, 1 << 20, tmp_path)
    states.take(WorkerState(1, 0, np.ones(1 << 20, dtype=np.uint8)))
    assert list(tmp_path.iterdir()) == []

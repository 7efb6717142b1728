"""An evaluation that goes on meanwhile changes when a figure is known, and nothing else."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from gcdl.config import parse
from gcdl.problems import Evaluation
from gcdl.training import checkpoint_file as checkpoint
from gcdl.training import loop
from gcdl.training import roles as run
from gcdl.training.evaluation import ConcurrentEvaluator
from gcdl.training.starting_point import StartingPoint
from gcdl.training.watcher import Watcher

CONFIG = """
workers = 3
steps = 17
[problem]
kind = "linear_regression"
features = 6
[compressor]
kind = "scaled_sign"
error_feedback = true
[optimizer]
lr = 0.01
[run]
eval_every = 4
checkpoint_every = 4
keep = 9
"""


def test_lines_and_checkpoints_are_those_of_a_run_that_waits(tmp_path, monkeypatch):
    run.simulate(StartingPoint(parse(CONFIG), tmp_path / "between"), Watcher())
    threads = []

    class Meanwhile(ConcurrentEvaluator):
        def __init__(self, evaluator, *, concurrent, limit, workers):
            super().__init__(evaluator, concurrent=True, limit=lambda: threads.append(threading.current_thread().name))

    monkeypatch.setattr(loop, "ConcurrentEvaluator", Meanwhile)
    run.simulate(StartingPoint(parse(CONFIG), tmp_path / "meanwhile"), Watcher())
    assert threads == ["evaluation"] * 4
    one, other = (sorted((tmp_path / name / "checkpoint").iterdir()) for name in ("between", "meanwhile"))
    assert [path.name for path in one] == [path.name for path in other]
    assert (tmp_path / "between" / "steps.jsonl").read_text() == (tmp_path / "meanwhile" / "steps.jsonl").read_text()
    for a, b in zip(map(checkpoint.load, one), map(checkpoint.load, other), strict=True):
        assert a.step == b.step
        assert a.parameters.tobytes() == b.parameters.tobytes()
        assert a.states.keys() == b.states.keys()
        assert all(np.array_equal(a.states[worker], b.states[worker]) for worker in a.states)


class Slow:
    def __init__(self, error=None):
        self.error, self.seen = error, None

    def evaluate(self, parameters, *, train):
        time.sleep(0.1)
        self.seen = parameters.copy()
        if self.error is not None:
            raise self.error
        return Evaluation(None, 1.5, None, {"mine": 2.0})


class Record:
    def __init__(self):
        self.test_loss = self.test_accuracy = None
        self.metrics = {"user": 1.0}


def test_it_does_not_wait_and_looks_at_the_model_as_it_was():
    evaluator, record, parameters = Slow(), Record(), np.ones(3, dtype=np.float32)
    running = ConcurrentEvaluator(evaluator, concurrent=True, limit=lambda: None)
    running.begin(record, parameters)
    assert running.busy
    assert record.test_loss is None
    parameters += 1.0
    running.settle()
    assert not running.busy
    assert evaluator.seen.tolist() == [1.0] * 3
    assert (record.test_loss, record.metrics) == (1.5, {"user": 1.0, "mine": 2.0})
    running.settle()
    running.drop()


def test_what_it_raises_is_raised_by_whoever_waits():
    running = ConcurrentEvaluator(Slow(ZeroDivisionError("bug")), concurrent=True, limit=lambda: None)
    running.begin(Record(), np.ones(3, dtype=np.float32))
    with pytest.raises(ZeroDivisionError, match="bug"):
        running.settle()
    assert not running.busy

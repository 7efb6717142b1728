"""``wait.kind = "adaptive"`` in simulations: what it waits for, and that it is worth it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gcdl.analysis.replay import replay
from gcdl.config import parse
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint, resume
from tests.conftest import Heard

CONFIG = """
workers = 8
steps = 120
[problem]
kind = "linear_regression"
features = 8
samples = 20
[wait]
kind = "adaptive"
[run]
eval_every = 0
checkpoint_every = 0
"""
EXPLORING = 4
"""Steps that wait in order to learn; one in 32 after them."""


def run(folder, *overrides, timing_only=True):
    simulate(StartingPoint(parse(CONFIG, overrides), folder, timing_only=timing_only), Heard())
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def seconds(lines):
    return sum(line["seconds"] for line in lines)


@pytest.mark.parametrize("code", ["uncoded", "fractional_repetition", "cyclic_repetition", "sgc"])
def test_without_stragglers_it_waits_for_all(tmp_path, code):
    lines = run(tmp_path / "run", f"code.kind={code}", "simulate.bandwidth=1e5")
    assert all(len(line["replies"]) == 8 for line in lines)


@pytest.mark.parametrize("delay", ["0.5", "1000.0", "inf"])
@pytest.mark.parametrize("code", ["uncoded", "fractional_repetition"])
def test_it_stops_waiting_for_a_straggler_that_is_always_late(tmp_path, code, delay):
    late = ("stragglers.kind=fixed", "stragglers.workers=[3]", f"stragglers.seconds={delay}")
    lines = run(tmp_path / "run", f"code.kind={code}", *late)
    assert all(line["replies"] == [0, 1, 2, 4, 5, 6, 7] for line in lines)
    # The steps that look whether it comes wait at most a seventh longer; the others not at all.
    alone = run(tmp_path / "alone", f"code.kind={code}")
    assert seconds(lines) < 1.03 * seconds(alone)
    assert not any(line["timed_out"] for line in lines)


def test_a_worker_that_becomes_late_and_recovers_is_left_out_meanwhile(tmp_path):
    trace = np.zeros((120, 8))
    trace[30:70, 5] = 0.5
    np.savez(tmp_path / "trace.npz", seconds=trace)
    lines = run(tmp_path / "run", "stragglers.kind=trace", f"stragglers.file={tmp_path / 'trace.npz'}")
    with_5 = [line["step"] for line in lines if 5 in line["replies"]]
    assert set(range(30)) <= set(with_5)
    assert not set(with_5) & set(range(30, 70))
    # It is expected again after a step that waited for it: one in 32.
    assert set(range(98, 120)) <= set(with_5)
    assert seconds(lines[30:70]) < 1.1 * seconds(lines[:30]) * 40 / 30


STRAGGLERS = {
    "bernoulli": ("stragglers.p=0.2", "stragglers.seconds=0.1"),
    "exponential": ("stragglers.seconds=0.02",),
    "pareto": ("stragglers.shape=1.5", "stragglers.seconds=0.03"),
    "bursts": ("stragglers.p=0.2", "stragglers.length=10.0", "stragglers.seconds=0.1"),
}


@pytest.mark.parametrize("code", ["uncoded", "fractional_repetition"])
@pytest.mark.parametrize("kind", STRAGGLERS)
def test_progress_per_second_is_that_of_the_best_number_of_first_replies(tmp_path, kind, code):
    common = (f"code.kind={code}", f"stragglers.kind={kind}", *STRAGGLERS[kind])

    def rate(name, *wait):
        lines = run(tmp_path / name, *common, *wait)
        return sum(1.0 - line["decoding_error"] ** 2 / 8 for line in lines) / seconds(lines)

    fixed = [rate(str(count), "wait.kind=first_replies", f"wait.count={count}") for count in range(2, 9)]
    assert rate("adaptive") > 0.92 * max(fixed)


def test_a_simulation_is_the_same_each_time_and_with_any_number_of_masters(tmp_path):
    late = ("steps=20", "stragglers.kind=exponential", "stragglers.seconds=0.02", "optimizer.lr=1e-7")
    problem = ("problem.features=300000", "problem.samples=2", "problem.test_samples=1")
    one, again, three = (
        run(tmp_path / name, *late, *problem, f"run.masters={masters}", timing_only=False)
        for name, masters in (("one", 1), ("again", 1), ("three", 3))
    )
    assert len({len(line["replies"]) for line in one}) > 1
    for key in ("replies", "gradient_norm", "seconds"):
        assert [line[key] for line in one] == [line[key] for line in again] == [line[key] for line in three]


def test_a_replay_is_the_same_to_the_bit(tmp_path):
    late = ("steps=40", "stragglers.kind=pareto", "stragglers.seconds=0.02", "code.kind=fractional_repetition")
    lines = run(tmp_path / "run", *late, timing_only=False)
    assert len({tuple(line["replies"]) for line in lines}) > 5
    assert replay(tmp_path / "run").startswith("identical")


def test_a_resumed_run_says_that_it_learns_anew(tmp_path):
    run(tmp_path / "run", "steps=10", timing_only=False)
    watcher = Heard()
    simulate(resume(tmp_path / "run", ["steps=20"]), watcher)
    assert "wait.kind = 'adaptive': reply times are learnt anew" in watcher.lines


@pytest.mark.parametrize("n", [1, 2, 13, 300])
def test_any_number_of_workers_will_do(tmp_path, n):
    lines = run(tmp_path / "run", f"workers={n}", "steps=12", "stragglers.kind=exponential", "stragglers.seconds=0.02")
    assert len(lines) == 12
    assert all(1 <= len(line["replies"]) <= n for line in lines)

"""A worker that stays slow gets fewer shards (``run.rebalance``), and gets them back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gcdl.analysis.replay import replay
from gcdl.config import parse
from gcdl.errors import ConfigError
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint
from tests.conftest import Heard

CONFIG = """
workers = 8
steps = 150
[problem]
kind = "linear_regression"
features = 9
samples = 5
shards = 64
[code]
kind = "uncoded"
[optimizer]
lr = 0.01
[run]
rebalance = 1.5
eval_every = 0
checkpoint_every = 0
[stragglers]
kind = "speeds"
workers = [3]
factors = 3.0
"""


def run(folder, *overrides, timing_only=True):
    watcher = Heard()
    simulate(StartingPoint(parse(CONFIG, overrides), folder, timing_only=timing_only), watcher)
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return lines, watcher.lines


def recoded(lines):
    return {line["step"]: line["recoded"] for line in lines if "recoded" in line}


def mean_seconds(lines):
    return sum(line["seconds"] for line in lines) / len(lines)


IDEAL = 64 * 0.01 / (7 + 1 / 3)


def test_a_worker_three_times_slower_costs_a_seventh_of_the_ideal_at_most(tmp_path):
    lines, said = run(tmp_path / "run")
    assert list(recoded(lines)) == [30]
    assert mean_seconds(lines[31:]) < 1.15 * IDEAL
    assert mean_seconds(lines[:30]) > 2.7 * IDEAL
    assert "step 30: worker 3 has been 3.0 times slower for 30 steps: it now holds 2 shards instead of 8" in said
    # Nothing is left out: the sum over all shards is decoded, before and after.
    assert all(line["decoding_error"] < 1e-9 for line in lines)


def test_it_is_off_by_default(tmp_path):
    lines, _ = run(tmp_path / "run", "run.rebalance=0")
    assert not recoded(lines)
    assert mean_seconds(lines) > 2.7 * IDEAL


def test_it_gets_its_shards_back_when_it_recovers(tmp_path):
    trace = np.zeros((300, 8))
    trace[:100, 5] = 0.16  # 8 shards take 0.08 s: three times slower in all
    np.savez(tmp_path / "trace.npz", seconds=trace)
    slow = ("stragglers.kind=trace", f"stragglers.file={tmp_path / 'trace.npz'}", "stragglers.at=send", "steps=300")
    lines, said = run(tmp_path / "run", *slow)
    first, *_, last = recoded(lines).values()
    assert len(first["assignment"][5]) == 2
    assert len(last["assignment"][5]) == 8
    assert any("worker 5 is as fast as the others again: it now holds 8 shards instead of" in line for line in said)
    assert mean_seconds(lines[-50:]) == pytest.approx(0.08, rel=0.01)


@pytest.mark.parametrize("length", [4, 25])
def test_a_burst_moves_no_shard(tmp_path, length):
    trace = np.zeros((150, 8))
    trace[50 : 50 + length, 5] = 0.16
    np.savez(tmp_path / "trace.npz", seconds=trace)
    slow = ("stragglers.kind=trace", f"stragglers.file={tmp_path / 'trace.npz'}", "stragglers.at=send")
    assert not recoded(run(tmp_path / "run", *slow)[0])


def test_sleep_before_computing_moves_no_shard(tmp_path):
    lines, _ = run(tmp_path / "run", "stragglers.kind=fixed", "stragglers.seconds=1.0")
    assert not recoded(lines)


def test_where_each_has_one_shard_it_says_what_would_help(tmp_path):
    lines, said = run(tmp_path / "run", "problem.shards=8")
    assert not recoded(lines)
    wanted = "worker 3 has been 3.0 times slower for 30 steps; it holds 1 shard still: finer shards (problem.shards) would help"
    assert said.count(wanted) == 1


@pytest.mark.parametrize("code", ["fractional_repetition", "cyclic_repetition", "sgc", "graph"])
def test_with_redundancy_every_shard_keeps_its_holders(tmp_path, code):
    shards = "problem.shards=8" if code == "cyclic_repetition" else "problem.shards=64"
    all_replies = ("wait.kind=first_replies", "wait.count=8")
    lines, _ = run(tmp_path / "run", f"code.kind={code}", "code.stragglers=1", shards, *all_replies)
    (change,) = recoded(lines).values()
    held = np.bincount(np.concatenate(change["assignment"]))
    assert set(held) == {2}
    loads = [len(shards) for shards in change["assignment"]]
    assert loads[3] == min(loads)
    if code != "cyclic_repetition":
        assert mean_seconds(lines[-50:]) < 1.15 * 2 * IDEAL


@pytest.mark.parametrize(
    "overrides", [(), ("code.kind=fractional_repetition", "wait.count=8"), ("compressor.kind=scaled_sign",)]
)
def test_a_replay_is_the_same_to_the_bit(tmp_path, overrides):
    lines, _ = run(tmp_path / "run", "steps=50", "problem.shards=24", *overrides, timing_only=False)
    assert recoded(lines)
    assert replay(tmp_path / "run").startswith("identical: 50 steps")


def test_the_loss_is_that_of_the_run_that_keeps_its_shards(tmp_path):
    moved, _ = run(tmp_path / "moved", "steps=60", timing_only=False)
    kept, _ = run(tmp_path / "kept", "steps=60", "run.rebalance=0", timing_only=False)
    assert recoded(moved)
    np.testing.assert_allclose([line["train_loss"] for line in moved], [line["train_loss"] for line in kept], rtol=1e-4)


def test_lost_workers_and_slow_ones_together(tmp_path):
    kill = 'stragglers.events=[{fault = "kill", worker = 0, step = 60}]'
    lines, _ = run(tmp_path / "run", kill)
    assert len(recoded(lines)) >= 3  # slow, lost, and slow still
    last = list(recoded(lines).values())[-1]
    loads = dict(zip(last["workers"], map(len, last["assignment"]), strict=True))
    assert loads[3] <= 4
    assert 0 not in loads


@pytest.mark.parametrize("value", ["0.5", "1.0", "-1.0"])
def test_a_ratio_that_is_none_is_refused(value):
    with pytest.raises(ConfigError, match=r"^run\.rebalance: "):
        parse(CONFIG, [f"run.rebalance={value}"])

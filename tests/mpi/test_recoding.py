"""Workers that are killed for good: those that are left share the shards, and the run goes on to its end."""

from __future__ import annotations

import os
import signal

import pytest

from gcdl.analysis.replay import replay

pytestmark = pytest.mark.mpi

EIGHT = """
seed = 3
workers = 8
steps = 400
[problem]
kind = "linear_regression"
features = 37
samples = 20
[code]
kind = "fractional_repetition"
stragglers = 1
[optimizer]
lr = 0.05
[run]
eval_every = 0
checkpoint_every = 0
[stragglers]
kind = "exponential"
seconds = 0.005
"""


def kill_one_after_the_other(job, workers, *, every=40, masters=1):
    for place, worker in enumerate(workers):
        job.until_step(20 + every * place)
        os.kill(job.pid(worker + masters), signal.SIGKILL)


@pytest.mark.parametrize(
    ("overrides", "killed"),
    [
        ((), (3, 0, 6, 7, 1)),
        ((), (3, 0, 6, 7, 1, 2, 5)),
        (("compressor.kind=scaled_sign", "compressor.error_feedback=true", "downlink.kind=replies"), (7, 6, 5, 2)),
    ],
    ids=["five", "all but one", "residuals and replicas"],
)
def test_workers_killed_one_after_the_other(start, overrides, killed):
    job = start("run", *overrides, config=EIGHT)
    kill_one_after_the_other(job, killed)
    ended = job.end()
    assert ended.code == 0, ended.output
    assert sorted(ended.summary["lost_workers"]) == sorted(killed)
    assert len(ended.steps) == 400
    assert set(ended.steps[-1]["replies"]) <= set(range(8)) - set(killed)
    assert ended.steps[-1]["decoding_error"] < 1e-9
    assert ended.steps[-1]["train_loss"] < 0.2 * ended.steps[0]["train_loss"]
    assert any("recoded" in line for line in ended.steps)
    assert replay(ended.folder).startswith("identical: 400 steps")


def test_stop_ends_the_run_with_3(start):
    job = start("run", "run.on_loss=stop", "steps=1000000", config=EIGHT)
    kill_one_after_the_other(job, (0, 3))
    ended = job.end()
    assert ended.code == 3, ended.output


def test_several_masters_re_code_too(start):
    job = start("run", "run.masters=2", "problem.features=70000", "problem.samples=4", "optimizer.lr=1e-5", config=EIGHT)
    kill_one_after_the_other(job, (3, 0, 6), masters=2)
    ended = job.end()
    assert ended.code == 0, ended.output
    assert ended.summary["lost_workers"] == [0, 3, 6]
    assert any("recoded" in line for line in ended.steps)
    assert replay(ended.folder).startswith("identical: 400 steps")


def test_resumed_with_fewer_and_with_more_workers(start):
    """Error feedback: who keeps a residual, and who begins afresh, is what a replay has to find."""
    job = start("train", "steps=20", "compressor.kind=scaled_sign", "compressor.error_feedback=true", config=EIGHT, ranks=9)
    assert job.end().code == 0
    fewer = start.resume("train", job, "steps=40", ranks=6).end()
    assert fewer.code == 0, fewer.output
    more = start.resume("resume", job, "steps=60", "workers=7", "run.masters=2", "downlink.kind=replies").end()
    assert more.code == 0, more.output
    assert {line["step"]: len(line["recoded"]["workers"]) for line in more.steps if "recoded" in line} == {20: 5, 40: 7}
    assert more.summary["workers"] == 7
    assert max(more.steps[-1]["replies"]) > 4
    assert replay(more.folder).startswith("identical: 60 steps")


@pytest.mark.parametrize("masters", [1, 2])
def test_a_slow_worker_gets_fewer_shards(start, masters):
    slow = ("stragglers.kind=speeds", "stragglers.workers=[1]", "stragglers.factors=20.0", "run.rebalance=2.0")
    large = ("problem.features=140000", "problem.samples=4", "problem.shards=32", "optimizer.lr=1e-7")
    config = EIGHT[: EIGHT.index("[stragglers]")].replace("workers = 8", "workers = 4")
    job = start("train", "steps=60", "code.kind=uncoded", *slow, *large, f"run.masters={masters}", config=config,
                ranks=4 + masters)  # fmt: skip
    ended = job.end()
    assert ended.code == 0, ended.output
    assert "worker 1 on " in ended.output
    assert "times slower for" in ended.output
    last = [line["recoded"] for line in ended.steps if "recoded" in line][-1]
    assert [len(shards) for shards in last["assignment"]][1] <= 2
    assert ended.steps[-1]["decoding_error"] < 1e-9
    assert replay(ended.folder).startswith("identical: 60 steps")

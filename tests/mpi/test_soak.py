"""Jobs of eight workers that are killed, stopped and resumed at random moments, as often as GCDL_SOAK_JOBS says.

``launch/test -m soak`` runs them. 100 is a night on a small machine: 100 jobs with two killed, 20 with four killed and
replaced, 20 stopped and continued, 20 with three killed, 20 each with five and with seven killed for good, 10 resumed. The
default is 10.
"""

from __future__ import annotations

import os
import random
import signal
import time

import numpy as np
import pytest

from gcdl.analysis.replay import replay
from gcdl.config import parse
from gcdl.training import checkpoint_file as checkpoint
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint
from gcdl.training.watcher import Watcher

pytestmark = [pytest.mark.mpi, pytest.mark.alone, pytest.mark.soak, pytest.mark.timeout(0)]

JOBS = int(os.environ.get("GCDL_SOAK_JOBS", "10"))
SEED = int(os.environ.get("GCDL_SOAK_SEED", "0"))
STEPS = 600
CONFIG = f"""
workers = 8
steps = {STEPS}
[problem]
kind = "linear_regression"
features = 30
samples = 10
[code]
kind = "cyclic_repetition"
stragglers = 2
[optimizer]
lr = 0.01
[run]
eval_every = 0
checkpoint_every = 100
"""


def simulated(folder, *overrides):
    return simulate(StartingPoint(parse(CONFIG, overrides), folder), Watcher())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    simulated(folder)
    return checkpoint.newest(folder)[0].parameters


def share(of_a_hundred):
    return range(max(1, JOBS * of_a_hundred // 100))


def same_model(ended, undisturbed):
    found = checkpoint.newest(ended.folder)[0]
    assert found.step == STEPS
    np.testing.assert_allclose(found.parameters, undisturbed, rtol=1e-3, atol=1e-4)


def moments(draws, count):
    """Steps before which something happens, early enough that the job is not over by then."""
    return sorted(draws.sample(range(1, STEPS // 2), count))


@pytest.mark.parametrize("trial", share(100))
def test_two_of_eight_killed(start, undisturbed, trial):
    draws = random.Random(1000 * SEED + trial)
    job = start("run", config=CONFIG)
    killed = draws.sample(range(8), 2)
    for worker, step in zip(killed, moments(draws, 2), strict=True):
        job.until_step(step)
        os.kill(job.pid(worker + 1), signal.SIGKILL)
    ended = job.end()
    assert ended.code == 0, ended.output
    assert ended.summary["lost_workers"] == sorted(killed)
    same_model(ended, undisturbed)


@pytest.mark.parametrize("trial", share(20))
def test_four_of_eight_killed_and_replaced(start, undisturbed, trial):
    draws = random.Random(1000 * SEED + trial)
    job = start("run", "run.replace=4", "stragglers.kind=exponential", "stragglers.seconds=0.005", config=CONFIG)
    killed = draws.sample(range(8), 4)
    for worker, step in zip(killed, moments(draws, 4), strict=True):
        job.until_step(step)
        os.kill(job.pid(worker + 1), signal.SIGKILL)
    ended = job.end()
    assert ended.code == 0, ended.output
    assert sorted(ended.summary["replaced_workers"] + ended.summary["lost_workers"]) == sorted(killed)
    same_model(ended, undisturbed)


@pytest.mark.parametrize("trial", share(20))
def test_two_of_eight_stopped_and_continued(start, undisturbed, trial):
    draws = random.Random(1000 * SEED + trial)
    job = start("run", config=CONFIG)
    for worker, step in zip(draws.sample(range(8), 2), moments(draws, 2), strict=True):
        job.until_step(step)
        pid = job.pid(worker + 1)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(draws.random())
        os.kill(pid, signal.SIGCONT)
    ended = job.end()
    assert ended.code == 0, ended.output
    assert ended.summary["lost_workers"] == []
    same_model(ended, undisturbed)


@pytest.mark.parametrize("trial", share(20))
def test_three_of_eight_killed(start, undisturbed, trial):
    draws = random.Random(1000 * SEED + trial)
    job = start("run", "run.on_loss=stop", config=CONFIG)
    killed = draws.sample(range(8), 3)
    for worker, step in zip(killed, moments(draws, 3), strict=True):
        job.until_step(step)
        os.kill(job.pid(worker + 1), signal.SIGKILL)
    ended = job.end()
    assert ended.code == 3, ended.output
    assert sum("too few for the wait rule" in line for line in ended.messages) == 1
    found = checkpoint.newest(ended.folder)[0]
    assert found.step == len(ended.steps)
    resumed = start.resume("resume", job).end()
    assert resumed.code == 0, resumed.output
    same_model(resumed, undisturbed)


@pytest.mark.parametrize("trial", share(20))
@pytest.mark.parametrize("count", [5, 7])
def test_most_of_eight_killed_for_good(start, tmp_path, count, trial):
    draws = random.Random(1000 * SEED + trial)
    job = start("run", "stragglers.kind=exponential", "stragglers.seconds=0.005", config=CONFIG)
    killed = draws.sample(range(8), count)
    for worker, step in zip(killed, moments(draws, count), strict=True):
        job.until_step(step)
        os.kill(job.pid(worker + 1), signal.SIGKILL)
    ended = job.end()
    assert ended.code == 0, ended.output
    assert ended.summary["lost_workers"] == sorted(killed)
    assert ended.steps[-1]["decoding_error"] < 1e-9
    assert replay(ended.folder).startswith(f"identical: {STEPS} steps")
    # The steps of a loss are decoded without some shards; the others are those of the undisturbed run.
    whole = simulated(tmp_path / "whole")
    assert ended.summary["final_train_loss"] == pytest.approx(whole.final_train_loss, rel=0.05)


@pytest.mark.parametrize("trial", share(10))
def test_resumed_after_the_master_was_killed(start, tmp_path, trial):
    draws = random.Random(1000 * SEED + trial)
    optimizer = ("optimizer.kind=adam",) if trial % 2 else ("optimizer.momentum=0.9",)
    # All eight are waited for: the arrived sets, and so the model, are the same however fast the machine is.
    overrides = (
        *optimizer, "compressor.kind=scaled_sign", "compressor.error_feedback=true", "wait.count=8", "steps=400",
        "run.checkpoint_every=7",
    )  # fmt: skip
    whole = simulated(tmp_path / "whole", *overrides)
    job = start("run", *overrides, config=CONFIG)
    job.until_step(draws.randrange(1, 200))
    os.kill(job.pid(0), signal.SIGKILL)
    assert job.end().code == 1
    resumed = start.resume("resume", job).end()
    assert resumed.code == 0, resumed.output
    assert resumed.summary["resumed"] == 1
    assert resumed.summary["model_sha256"] == whole.model_sha256

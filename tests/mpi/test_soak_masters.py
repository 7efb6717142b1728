"""Jobs with three masters whose workers, or one of whose masters, are killed at random moments; see test_soak.py.

100 is 50 jobs with two of five workers killed, and 20 with a slice master killed and resumed: a quarter of an hour.
"""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.mpi.test_soak import SEED, share

pytestmark = [pytest.mark.mpi, pytest.mark.alone, pytest.mark.soak, pytest.mark.timeout(0)]

MASTERS = 3
CONFIG = """
workers = 5
steps = 80
[problem]
kind = "linear_regression"
features = 400000
samples = 2
[code]
kind = "cyclic_repetition"
stragglers = 2
[compressor]
kind = "stochastic_sign"
[optimizer]
lr = 1e-4
[run]
masters = 3
eval_every = 0
checkpoint_every = 9
"""


@pytest.mark.parametrize("trial", share(50))
def test_two_of_five_killed(start, trial):
    draws = random.Random(1000 * SEED + trial)
    job = start("run", config=CONFIG)
    killed = draws.sample(range(5), 2)
    for worker, step in zip(killed, sorted(draws.sample(range(1, 60), 2)), strict=True):
        job.until_step(step)
        os.kill(job.pid(MASTERS + worker), signal.SIGKILL)
    ended = job.end()
    assert ended.code == 0, ended.output
    assert ended.summary["steps"] == 80
    assert ended.summary["lost_workers"] == sorted(killed)


@pytest.mark.parametrize("trial", share(20))
def test_a_slice_master_killed_and_resumed(start, simulated, trial):
    draws = random.Random(1000 * SEED + trial)
    everybody = ("wait.kind=first_replies", "wait.count=5")  # so that the model does not depend on how fast the machine is
    job = start("run", *everybody, config=CONFIG)
    job.until_step(draws.randrange(1, 60))
    os.kill(job.pid(draws.randrange(1, MASTERS)), signal.SIGKILL)
    began = time.monotonic()
    ended = job.end()
    took = time.monotonic() - began
    assert ended.code == 3, ended.output
    assert "slice master" in ended.output
    assert took < 15.0  # the death is seen within 5 s, and the job ends within 5 s of that
    resumed = start.resume("resume", job).end()
    assert resumed.code == 0, resumed.output
    assert resumed.summary["model_sha256"] == simulated(*everybody, config=CONFIG).summary["model_sha256"]

"""A run that ended early, however it did, goes on to the model of the run that did not: to the bit."""

from __future__ import annotations

import os
import signal

import pytest

pytestmark = pytest.mark.mpi

EARLY = (
    "compressor.kind=scaled_sign", "compressor.error_feedback=true", "steps=24",
    "stragglers.kind=bernoulli", "stragglers.p=0.06", "stragglers.seconds=inf", "wait.kind=deadline", "wait.seconds=1.0",
)  # fmt: skip
"""Who answers is drawn, not raced for, and differs from step to step: residuals are those of different steps."""


def same(job, whole):
    assert job.summary["model_sha256"] == whole.summary["model_sha256"], job.output
    assert [line["step"] for line in job.steps] == list(range(24))
    assert [line["replies"] for line in job.steps] == [line["replies"] for line in whole.steps]
    for total in ("steps", "uplink_bytes", "final_test_loss"):
        assert job.summary[total] == whole.summary[total]
    assert job.summary["shard_coverage"] == pytest.approx(whole.summary["shard_coverage"])


def test_resumed_after_a_kill_of_the_master(start, simulated):
    overrides = (*EARLY, "optimizer.kind=adam", "optimizer.lr=0.02", "run.checkpoint_every=5")
    whole = simulated(*overrides)
    # Killed in the middle, by itself: rank 0 ends before step 16 begins.
    job = start("train", *overrides, script=KILLED, survive=True)
    job.end()
    assert job.steps() == 16
    kept = sorted(path.name for path in (job.folder / "checkpoint").iterdir())
    assert kept == ["step-00000010.npz", "step-00000015.npz"]
    resumed = start.resume("resume", job).end()
    assert resumed.code == 0, resumed.output
    same(resumed, whole)
    assert resumed.summary["resumed"] == 1
    refused = start.resume("train", job, "steps=30", "optimizer.lr=1.0").end()
    assert refused.code == 2
    assert len(refused.messages) == 1, refused.output
    assert "optimizer.lr: cannot change when a run is resumed" in refused.messages[0]


KILLED = """
import os
import time
from gcdl.protocol import master
step = master.Master._step
def killed(self, begun):
    if begun.task.step == 16:
        time.sleep(2.0)  # the checkpoint of step 15 is written meanwhile
        os.kill(os.getpid(), 9)
    return step(self, begun)
master.Master._step = killed
from gcdl.cli import main
main()
"""


def test_a_run_interrupted_by_ctrl_c_resumes_under_mpirun(start, simulated):
    overrides = (*EARLY, "compressor.kind=stochastic_sign", "optimizer.momentum=0.9", "run.checkpoint_every=0")
    whole = simulated(*overrides)
    job = start("run", *overrides, script=SLOW)
    job.until_step(5)
    os.kill(job.process.pid, signal.SIGINT)
    interrupted = job.end(30.0)
    assert interrupted.code == 130, interrupted.output
    assert f"gcdl resume {job.folder}" in interrupted.output
    resumed = start.resume("train", job).end()
    assert resumed.code == 0, resumed.output
    same(resumed, whole)


SLOW = """
import time
from gcdl.protocol import master
step = master.Master._step
def slow(self, number):
    time.sleep(0.1)
    return step(self, number)
master.Master._step = slow
from gcdl.cli import main
main()
"""

"""Evaluation by the workers, over MPI: the figures are those of the master alone."""

from __future__ import annotations

import os
import signal

import pytest

from gcdl.analysis.replay import replay

pytestmark = pytest.mark.mpi

BY_WORKERS = (
    "problem.kind=classifier",
    "problem.model=mlp",
    "problem.hidden=[8]",
    "run.evaluate=workers",
    "run.eval_every=2",
    "compressor.kind=stochastic_sign",
)


@pytest.mark.parametrize("more", [(), ("downlink.kind=sign",)], ids=["model", "sign"])
def test_workers_evaluate_to_the_masters_figures(start, simulated, more):
    """Worker 3 is always late: its pieces are the master's."""
    late = ("stragglers.kind=fixed", "stragglers.workers=[3]", "stragglers.seconds=30.0", "steps=9")
    ended = start("train", *BY_WORKERS, *late, *more).end()
    expected = simulated(*BY_WORKERS, *late, *more, "run.evaluate=between")
    assert ended.code == 0, ended.output
    for name in ("test_loss", "test_accuracy"):
        found = [line.get(name) for line in ended.steps]
        assert found == [line.get(name) for line in expected.steps]
        assert sum(value is not None for value in found) == 5
    assert ended.summary["model_sha256"] == expected.summary["model_sha256"]


def test_a_killed_worker_and_several_masters_change_no_figure_of_an_evaluation(start, simulated):
    more = ("problem.hidden=[5000]", "run.masters=2", "run.spares=1", "steps=40")  # 375,010 parameters
    job = start("run", *BY_WORKERS, *more)
    job.until_step(5)
    os.kill(job.pid(4), signal.SIGKILL)
    ended = job.end()
    assert ended.code == 0, ended.output
    assert all("test_loss" in line for line in ended.steps[1::2])
    assert "identical" in replay(ended.folder)

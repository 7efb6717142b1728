"""Local steps over MPI: the simulated run, and the replayed one, to the bit."""

from __future__ import annotations

import pytest

from gcdl.analysis.replay import replay

pytestmark = pytest.mark.mpi

LOCAL = (
    "problem.batch_size=6",
    "problem.local_steps=7",
    'problem.local_optimizer={kind = "adam", lr = 0.01}',
    "compressor.kind=stochastic_sign",
    "optimizer.lr=0.7",
    "optimizer.momentum=0.9",
    "optimizer.nesterov=true",
    "stragglers.kind=fixed",
    "stragglers.workers=[2]",
    "stragglers.seconds=30.0",
)
CLASSIFIER = ("problem.kind=classifier", "problem.model=mlp", "problem.hidden=[8]", "steps=8")


@pytest.mark.parametrize(
    "kind", [(), pytest.param(CLASSIFIER, marks=pytest.mark.exhaustive)], ids=["linear_regression", "classifier"]
)
def test_seven_local_steps_over_mpi_are_those_simulated_and_replayed(start, simulated, kind):
    measured = start("train", *LOCAL, *kind).end()
    expected = simulated(*LOCAL, *kind)
    assert measured.code == 0, measured.output
    assert [line["replies"] for line in measured.steps] == [line["replies"] for line in expected.steps]
    assert measured.summary["model_sha256"] == expected.summary["model_sha256"]
    assert "identical" in replay(measured.folder)

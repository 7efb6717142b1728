"""Local steps over MPI: the simulated run, and the replayed one, to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib

import pytest

from gcdl.analysis.replay import replay
from gcdl.launch.mpirun import mpirun
from tests.mpi.conftest import environment

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


OPEN = (
    "problem.local_steps=auto",
    'problem.local_optimizer={kind = "sgd", lr = 1e-6}',
    "problem.features=200000",
    "problem.samples=2",
    "code.stragglers=0",
    "compressor.kind=stochastic_sign",
    "optimizer.lr=1.0",
    "run.masters=3",
    "steps=6",
)
"""The model is enough for two masters. The third, and the spare, have nothing to do in the rehearsal either."""


def test_a_number_left_open_is_measured_and_the_run_is_the_one_that_states_it(start, simulated):
    measured = start("train", *OPEN, "run.spares=1", ranks=8).end()
    assert measured.code == 0, measured.output
    chosen = tomllib.loads((measured.folder / "config.toml").read_text())["problem"]["local_steps"]
    assert f'problem.local_steps = "auto": {chosen} (a local step takes' in measured.output
    assert json.loads((measured.folder / "manifest.json").read_text())["local_steps"]["chosen"] == chosen
    expected = simulated(*OPEN, f"problem.local_steps={chosen}")
    assert measured.summary["model_sha256"] == expected.summary["model_sha256"]
    assert "identical" in replay(measured.folder)


def test_a_master_that_has_nothing_to_do_hears_that_the_run_is_over(start):
    ended = start("train", "run.masters=2", "steps=3", ranks=6).end()
    assert ended.code == 0, ended.output


SCRIPT = """
import copy, dataclasses, pathlib, tomllib, torch, numpy as np, gcdl
x = np.random.default_rng(0).standard_normal((60, 4)); y = x @ np.arange(4.0) + 1.0
model = torch.nn.Linear(4, 1)   # unseeded: rank 0's is everybody's
loss = lambda o, t: torch.nn.functional.mse_loss(o.squeeze(1), t)
problem = gcdl.TorchProblem(model, loss, (x, y), local_steps="auto", local_optimizer={"lr": 0.01})
start = copy.deepcopy(model.state_dict())
def run(problem, out, steps, resume=False):
    trainer = gcdl.Trainer(problem, optimizer={"lr": 1.0}, out=out)
    trainer.run(steps, resume=resume)
    if trainer.is_master:
        print("sha", trainer.summary.model_sha256, flush=True)
run(problem, "left_open", 5)
chosen = tomllib.loads(pathlib.Path("left_open/config.toml").read_text())["problem"]["local_steps"]
model.load_state_dict(start)
run(dataclasses.replace(problem, local_steps=chosen), "stated", 5)
run(problem, "left_open", 8, resume=True)
run(dataclasses.replace(problem, local_steps=chosen), "stated", 8, resume=True)
"""


@pytest.mark.slow
def test_a_scripts_model_is_as_it_was_when_the_number_is_chosen(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ours = [mpirun(3)[0], "--map-by", ":OVERSUBSCRIBE", "--bind-to", "none", "-n", "3"]
    ended = subprocess.run(
        [*ours, sys.executable, str(script)], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240.0
    )
    assert ended.returncode == 0, ended.stderr
    five, same_five, eight, same_eight = (line.split()[1] for line in ended.stdout.splitlines() if line.startswith("sha"))
    assert five == same_five
    assert eight == same_eight

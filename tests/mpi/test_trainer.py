"""One script on all ranks: rank 0 iterates, the others serve; what follows, follows everywhere; errors leave nobody waiting.

Three jobs of two or three ranks that import torch, two of ranks that don't: about 25 s of one core together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gcdl
from gcdl.launch.mpirun import mpirun

ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
ENVIRONMENT = {**os.environ, **ROOT, "PYTHONPATH": str(Path(gcdl.__file__).parents[1])}

pytestmark = [pytest.mark.mpi, pytest.mark.slow]

PROBLEM = """
import os, sys, torch, numpy as np, gcdl
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", 0))
rng = np.random.default_rng(0)
x = rng.standard_normal((60, 4)); y = x @ np.arange(4.0) + 1.0
model = torch.nn.Linear(4, 1)   # unseeded: rank 0's is everybody's
loss = lambda o, t: torch.nn.functional.mse_loss(o.squeeze(1), t)
problem = gcdl.TorchProblem(model, loss, (x, y), test=(x, y), batch_size=0, metrics={"bias": lambda o, t: model.bias.item()})
code = {"kind": "fractional_repetition", "stragglers": 1}
def trainer(out, **more):
    return gcdl.Trainer(problem, **{"code": code, "run": {"eval_every": 2}, "out": out, **more})
def digest():
    return sum(float(p.double().abs().sum()) for p in model.parameters())
"""


def run(tmp_path, text, ranks, *, survive=False, seconds=120.0):
    script = tmp_path / "script.py"
    script.write_text(text)
    ours = mpirun(ranks)
    launcher = ours if survive else [ours[0], "--map-by", ":OVERSUBSCRIBE", "--bind-to", "none", "-n", str(ranks)]
    return subprocess.run(
        [*launcher, sys.executable, str(script)], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=seconds
    )


LIFE = """
first = trainer("first")
records = list(first.fit(6))
print("one", rank, len(records), first.summary is None, digest(), flush=True)
for record in trainer("second").fit(6):
    record.metrics["mine"] = 7.0
    if record.step == 3:
        break
print("two", rank, digest(), flush=True)
third = trainer("third")
try:
    for record in third.fit(6):
        if record.step == 2:
            raise KeyError("a bug of the user's")
except KeyError:
    print("three", rank, flush=True)
again = list(trainer("second").fit(6, resume=True))
print("four", rank, [record.step for record in again], digest(), flush=True)
for record in trainer("last").fit(6):
    1 / 0
"""


def test_a_script_with_several_runs_a_break_and_bugs(tmp_path):
    done = run(tmp_path, PROBLEM + LIFE, 3)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    one = sorted(line[1:] for line in lines if line[:1] == ["one"])
    assert [(rank, count, no_summary) for rank, count, no_summary, _ in one] == [
        ("0", "6", "False"), ("1", "0", "True"), ("2", "0", "True")
    ]  # fmt: skip
    assert len({line[3] for line in one}) == 1  # every rank has the trained model
    two = [line for line in lines if line[:1] == ["two"]]
    assert len(two) == 3
    assert len({line[2] for line in two}) == 1
    assert [line[1] for line in lines if line[:1] == ["three"]] == ["0"]
    four = sorted(line for line in lines if line[:1] == ["four"])
    assert [line[1] for line in four] == ["0", "1", "2"]
    assert four[0][2] == "[5]"  # step 4 was done while step 3 was evaluated
    assert len({line[-1] for line in four}) == 1
    assert done.stderr.count("ZeroDivisionError") == 1
    second = [json.loads(line) for line in (tmp_path / "second" / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in second] == list(range(6))
    assert all(line["metrics"]["mine"] == 7.0 for line in second[:4])
    assert [line["step"] for line in second if "test_loss" in line] == [1, 3, 5]
    assert all(("bias" in line.get("metrics", {})) == ("test_loss" in line) for line in second)
    assert json.loads((tmp_path / "second" / "summary.json").read_text())["resumed"] == 1
    assert not (tmp_path / "third" / "summary.json").exists()
    assert (tmp_path / "third" / "checkpoint" / "step-00000003.npz").exists()


LATE = """
import os, time
time.sleep(0.0 if int(os.environ["OMPI_COMM_WORLD_RANK"]) else 2.0)
"""
PLAIN = """
import gcdl
def trainer(**more):
    return gcdl.Trainer({"kind": "linear_regression", "features": 5}, out="out", **more)
"""


UNKNOWN = PLAIN + "trainer(wait={'kind': 'deadline', 'second': 1})"


@pytest.mark.parametrize(
    ("script", "ranks", "says"),
    [
        (UNKNOWN, 3, "wait.second: unknown key"),
        pytest.param(LATE + UNKNOWN, 3, "wait.second: unknown key", marks=pytest.mark.exhaustive),
        (PLAIN + "list(trainer(workers=5).fit(3))", 3, "workers: the config says 5, but there are 2"),
        (PROBLEM + "x[:] += rank\nlist(trainer('out', workers=1, code='uncoded').fit(3))", 2, "the samples of rank 1"),
    ],
    ids=["config", "config, rank 0 is the last", "workers", "other data"],
)
def test_an_error_is_said_once_and_ends_all_ranks_with_its_code(tmp_path, script, ranks, says):
    done = run(tmp_path, script, ranks)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("gcdl: ") == 1, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


KILLED = """
events = [{"fault": "kill", "worker": 0, "step": 3}]
slow = {"kind": "fixed", "workers": [1], "seconds": 0.2, "events": events}  # so that the other is heard of
t = trainer("out", downlink="replies", compressor="stochastic_sign", stragglers=slow)
steps = [record.step for record in t.fit(8)]
if t.is_master:
    print("lost", t.summary.lost_workers, len(steps), digest(), flush=True)
else:
    print("other", rank, digest(), flush=True)
"""


def test_a_killed_worker_does_not_keep_a_script_from_its_end(tmp_path):
    done = run(tmp_path, PROBLEM + KILLED, 3, survive=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    (lost,) = [line for line in lines if line[:1] == ["lost"]]
    assert lost[1:3] == ["[0]", "8"]
    others = [line for line in lines if line[:1] == ["other"]]
    assert sorted(line[1] for line in others) == ["2"]
    assert {line[2] for line in others} == {lost[3]}

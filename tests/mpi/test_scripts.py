"""``gcdl run SCRIPT.py``: a script's ranks are started, watched and ended as a config's are, and ``gcdl resume`` goes on.

Six jobs of three to five ranks that import torch: about a minute of one core together.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.mpi.conftest import environment

pytestmark = [pytest.mark.mpi, pytest.mark.slow]

SCRIPT = """
import argparse, time, torch, numpy as np, gcdl
parser = argparse.ArgumentParser()
parser.add_argument("--out", default="mine")
parser.add_argument("--steps", type=int, default=12)
parser.add_argument("--slow", type=float, default=0.0)
parser.add_argument("--kill", action="store_true")
args = parser.parse_args()
rng = np.random.default_rng(0)
x = rng.standard_normal((60, 4)); y = (x @ np.arange(4.0) + 1.0).reshape(-1, 1)
problem = gcdl.TorchProblem(lambda: torch.nn.Linear(4, 1), torch.nn.functional.mse_loss, (x, y), test=(x, y), batch_size=4)
events = [{"fault": "kill", "worker": 0, "step": 3}] if args.kill else []
trainer = gcdl.Trainer(
    problem, code={"kind": "fractional_repetition", "stragglers": 1}, wait={"kind": "first_replies", "count": 2},
    compressor={"kind": "scaled_sign", "error_feedback": True}, optimizer={"lr": 0.02}, seed=3,
    stragglers={"kind": "fixed", "workers": [1], "seconds": args.slow, "events": events},
    run={"eval_every": 5, "checkpoint_every": 5, "on_loss": "stop"}, out=args.out,
)
for record in trainer.fit(args.steps):
    record.metrics["mine"] = 1.0
if trainer.is_master:
    print("ended", record.step, trainer.out, flush=True)
"""


def gcdl(tmp_path, *words, seconds=120.0):
    return subprocess.run(
        [sys.executable, "-m", "gcdl", *words], cwd=tmp_path, env=environment(), capture_output=True, text=True,
        timeout=seconds,
    )  # fmt: skip


@pytest.fixture
def script(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    return tmp_path


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_a_script_outlives_a_worker_and_chooses_its_folder(script):
    done = gcdl(script, "run", "train.py", "-n", "2", "--", "--kill", "--out", "chosen", "--slow", "0.1")
    assert done.returncode == 3, done.stdout + done.stderr  # both are waited for: that was too many
    assert "gcdl resume" in done.stdout
    done = gcdl(script, "resume", "chosen")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ended 11 chosen" in done.stdout.replace(str(script) + "/", "")
    found = summary(script / "chosen")
    assert (found["steps"], found["resumed"], found["workers"]) == (12, 1, 2)
    lines = [json.loads(line) for line in (script / "chosen" / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(12))
    assert all(line["metrics"]["mine"] == 1.0 for line in lines[5:])


def test_a_script_goes_on_with_as_many_workers_as_there_is_room_for(script):
    done = gcdl(script, "run", "train.py", "-n", "2", "--", "--kill", "--out", "chosen", "--slow", "0.1")
    assert done.returncode == 3, done.stdout + done.stderr
    (script / "hosts").write_text("localhost slots=4\n")
    done = gcdl(script, "resume", "chosen", "--hostfile", "hosts")
    assert done.returncode == 0, done.stdout + done.stderr
    found = summary(script / "chosen")
    assert (found["steps"], found["resumed"], found["workers"]) == (12, 1, 3)
    lines = [json.loads(line) for line in (script / "chosen" / "steps.jsonl").read_text().splitlines()]
    assert [(line["step"], line["recoded"]["workers"]) for line in lines if "recoded" in line] == [(3, [0, 1, 2])]


def test_an_interrupted_script_is_resumed_to_the_model_of_one_that_was_not(script):
    whole = gcdl(script, "run", "train.py", "-n", "2", "--out", "whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "result" in whole.stdout
    assert not (script / "mine").exists()
    job = subprocess.Popen(
        [sys.executable, "-m", "gcdl", "run", "train.py", "-n", "2", "run.spares=1", "--", "--slow=0.3"], cwd=script,
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    steps, until = script / "mine" / "steps.jsonl", time.monotonic() + 90.0
    while not steps.exists() or steps.read_bytes().count(b"\n") < 3:
        assert job.poll() is None, job.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.05)
    job.send_signal(signal.SIGINT)
    output, _ = job.communicate(timeout=60.0)
    assert job.returncode == 130, output
    assert "gcdl resume" in output
    assert "Traceback" not in output
    refused = gcdl(script, "resume", "mine", "steps=40")
    assert refused.returncode == 2
    assert "steps=40: the script says it" in refused.stderr
    resumed = gcdl(script, "resume", "mine", "run.spares=0")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert summary(script / "mine")["model_sha256"] == summary(script / "whole")["model_sha256"]


def test_a_script_that_fails_says_so_once_and_ends_all_ranks(tmp_path):
    (tmp_path / "wrong.py").write_text(SCRIPT.replace('record.metrics["mine"] = 1.0', "1 / 0"))
    done = gcdl(tmp_path, "run", "wrong.py", "-n", "2")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("ZeroDivisionError") == 1
    assert not (tmp_path / "mine" / "summary.json").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "train.py"], "say how many workers to start: -n 4"),
        (["run", "nothing.py", "-n", "2"], "nothing.py: no such file"),
        (["run", "train.py", "-n", "2", "run.sparse=1"], "run.sparse: unknown key"),
        (["run", "train.py", "-n", "2", "--", "--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_what_is_wrong_with_the_command_is_said(script, words, says):
    done = gcdl(script, *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_script_that_ran_alone_is_resumed_alone(script):
    alone = [sys.executable, "train.py", "--steps", "9"]
    broken = SCRIPT.replace('record.metrics["mine"] = 1.0', 'record.metrics["mine"] = 1.0; assert record.step < 6')
    (script / "train.py").write_text(broken)
    done = subprocess.run(alone, cwd=script, env=environment(), capture_output=True, text=True, timeout=60.0)
    assert done.returncode == 1
    assert "gcdl resume mine goes on" in done.stdout + done.stderr
    (script / "train.py").write_text(SCRIPT)
    resumed = gcdl(script, "resume", "mine")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert summary(script / "mine")["steps"] == 9

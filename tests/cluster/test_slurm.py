"""Jobs of a real Slurm of three nodes: submitted, stopped, requeued, and started wrongly."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.mpi]

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
seed = 3
steps = 800
[problem]
kind = "linear_regression"
features = 50
samples = 20
[compressor]
kind = "scaled_sign"
error_feedback = true
[optimizer]
lr = 0.05
[run]
eval_every = 0
checkpoint_every = 100
"""
"""Without code and waiting for all: whatever the placement and the interruptions, one model comes out. n comes from Slurm."""


def until_step(slurm, number: str, folder: Path, step: int, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not folder.exists() or (folder / "steps.jsonl").read_bytes().count(b"\n") < step:
        assert time.monotonic() < end, slurm.output(slurm.job(number))
        time.sleep(0.1)


def restart_now(slurm, number: str, starts: int) -> None:
    """A requeued job starts after some time; don't wait for that."""
    end = time.monotonic() + 150.0
    # Nor at once: for cred_expire seconds the nodes refuse a job that they have just ended.
    asked = time.monotonic()
    while (job := slurm.job(number))["JobState"] != "RUNNING" or int(job["Restarts"]) < starts - 1:
        assert time.monotonic() < end, f"{job}\n{slurm.output(job)}"
        assert job["JobState"] != "FAILED", f"{job}\n{slurm.output(job)}"
        # Not all the time: the scheduler looks at a job again some seconds after it was changed.
        if job["JobState"] == "PENDING" and time.monotonic() > asked + 8.0:
            asked = time.monotonic()
            update = ["scontrol", "update", f"JobId={number}", "StartTime=now"]
            subprocess.run(update, env=slurm.environment, capture_output=True, timeout=30, check=False)
        time.sleep(0.3)


def test_a_job_that_is_stopped_and_requeued_goes_on_to_the_model_of_an_undisturbed_run(slurm, tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG)
    gcdl = str(Path(sys.executable).parent / "gcdl")
    number = slurm(
        "sbatch", "--parsable", "-N3", "-n5", str(ROOT / "launch" / "slurm.sbatch"), "config.toml", folder=tmp_path, GCDL=gcdl
    ).strip()
    run = tmp_path / "runs" / f"slurm-{number}"
    until_step(slurm, number, run, 150)
    # What --signal=B:USR1@120 does when the time is nearly up: a checkpoint of that very step, and the job requeues itself.
    slurm("scancel", "--batch", "--signal=USR1", number)
    restart_now(slurm, number, 2)
    said = slurm.output(slurm.job(number))
    stopped = int(said.partition("gcdl: checkpoint after ")[2].split()[0])
    assert stopped >= 150
    assert "has not come" not in said
    # What an operator, or a node that fails, does: no time for anything.
    until_step(slurm, number, run, stopped + 150)
    slurm("scontrol", "requeue", number)
    restart_now(slurm, number, 3)
    job = slurm.wait(number, "COMPLETED", "FAILED")
    assert job["JobState"] == "COMPLETED", slurm.output(job)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 800
    assert summary["resumed"] == 2
    alone = [gcdl, "simulate", "config.toml", "workers=4", "--out", "alone"]
    subprocess.run(alone, cwd=tmp_path, check=True, timeout=200, stdout=subprocess.DEVNULL)
    assert summary["model_sha256"] == json.loads((tmp_path / "alone" / "summary.json").read_text())["model_sha256"]


@pytest.mark.parametrize("pmi", ["none", "pmi2"])
def test_srun_that_does_not_speak_this_mpis_language_is_said_once(slurm, tmp_path, pmi):
    (tmp_path / "config.toml").write_text(CONFIG)
    command = ["srun", f"--mpi={pmi}", "-n3", sys.executable, "-m", "gcdl", "train", "config.toml"]
    done = subprocess.run(
        command, cwd=tmp_path, env=slurm.environment, capture_output=True, text=True, timeout=120, check=False
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("srun:")]
    assert done.returncode == 2, said
    assert len(said) == 1, said
    assert said[0].startswith("gcdl: srun started 3 tasks, but each is an MPI job of its own: it offers ")
    assert "use mpirun inside the allocation" in said[0]

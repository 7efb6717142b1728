"""Processes that die, stop, or are told to: the job goes on, or ends, and says so."""

from __future__ import annotations

import os
import platform
import signal
import time

import pytest

from gcdl.analysis.replay import replay
from tests.conftest import telling

pytestmark = pytest.mark.mpi


def test_a_killed_worker_is_a_straggler_that_never_answers(start):
    job = start("run", "steps=1500", "run.checkpoint_every=0", "run.eval_every=0")
    job.until_step(5)
    os.kill(job.pid(3), signal.SIGKILL)
    ended = job.end()
    assert ended.code == 0, ended.output
    assert ended.summary["lost_workers"] == [2]
    assert ended.steps[-1]["replies"] == [0, 1, 3]
    assert ended.steps[-1]["decoding_error"] < 1e-9


def test_too_many_killed_workers_end_the_run_with_3_and_a_checkpoint(start):
    job = start("run", "steps=1000000", "run.checkpoint_every=0", "run.eval_every=0", "run.on_loss=stop")
    job.until_step(5)
    for rank in (1, 4):
        os.kill(job.pid(rank), signal.SIGKILL)
    ended = job.end()
    assert ended.code == 3, ended.output
    assert any("too few for the wait rule" in message and "lost: 0, 3" in message for message in ended.messages), ended.output
    assert len(list((ended.folder / "checkpoint").glob("step-*.npz"))) == 1


def test_a_stopped_worker_is_used_again_when_it_goes_on_and_the_end_does_not_wait_for_it(start):
    job = start("run", "steps=3000", "run.checkpoint_every=0", "run.eval_every=0")
    job.until_step(5)
    pid = job.pid(2)
    os.kill(pid, signal.SIGSTOP)
    stopped = job.steps()
    job.until_step(stopped + 100)
    continued = job.steps()
    os.kill(pid, signal.SIGCONT)
    job.until_step(continued + 1000)
    os.kill(pid, signal.SIGSTOP)
    ended = job.end()
    assert ended.code == 0, ended.output
    used = [1 in line["replies"] for line in ended.steps]
    assert not any(used[stopped + 2 : continued])
    assert any(used[continued : continued + 1000])
    assert any("worker 1" in message for message in ended.messages), ended.output


# gcdl run passes SIGINT on to the master, whatever it got; test_resume.py sends it SIGINT.
@pytest.mark.parametrize(
    ("verb", "number"),
    [
        ("run", signal.SIGTERM),
        pytest.param("train", signal.SIGTERM, marks=pytest.mark.exhaustive),
        pytest.param("train", signal.SIGINT, marks=pytest.mark.exhaustive),
        ("simulate", signal.SIGINT),
    ],
)
def test_an_interrupted_run_leaves_a_checkpoint_and_ends_with_130(start, verb, number):
    job = start(verb, "steps=1000000", "run.checkpoint_every=0", "run.eval_every=0")
    job.until_step(20)
    os.kill(job.pid(0) if verb == "train" else job.process.pid, number)
    ended = job.end(30.0)
    assert ended.code == 130, ended.output
    assert "Traceback" not in ended.output
    assert len(list((ended.folder / "checkpoint").glob("step-*.npz"))) == 1
    assert not (ended.folder / "summary.json").exists()


@pytest.mark.parametrize("killed", telling(("master", "mpirun"), "mpirun"))
def test_a_killed_master_or_mpirun_ends_the_job_in_seconds(start, killed):
    job = start("run", "steps=1000000", "run.eval_every=0")
    job.until_step(5)
    os.kill(job.pid(0) if killed == "master" else job.mpirun(), signal.SIGKILL)
    died = time.monotonic()
    ended = job.end(30.0)
    assert ended.code == 1, ended.output
    assert "without a word from the master" in ended.output
    assert f"gcdl resume {ended.folder} goes on" in ended.output
    assert time.monotonic() - died < 25.0


def test_a_worker_that_dies_before_the_first_step_is_named(start):
    script = """
import os
from gcdl.analysis.replay import replay
from tests.conftest import telling
from gcdl.problems import linear_model
def load(self, shards):
    from mpi4py import MPI
    if MPI.COMM_WORLD.rank == 2:
        os.kill(os.getpid(), 9)
    return {int(j): self.shard(int(j)) for j in shards}
linear_model.LinearModel.load = load
from gcdl.cli import main
main()
"""
    ended = start("train", script=script, survive=True).end(60.0)  # mpirun's own exit code means nothing then
    assert any("start-up: worker 1 (rank 2) is lost" in message for message in ended.messages), ended.output


def test_injected_faults_strike_real_processes_and_the_model_is_that_of_the_undisturbed_run(start, simulated):
    events = (
        'stragglers.events=[{fault = "kill", worker = 3, step = 5}, {fault = "stop", worker = 1, step = 8, seconds = 0.7}, '
        '{fault = "slow", worker = 0, step = 25}, {fault = "corrupt", worker = 0, step = 30}]'
    )
    disturbed = start("run", "wait.kind=decodable", "run.checksums=true", "steps=400", events).end()
    undisturbed = simulated("steps=400")
    assert disturbed.code == 0, disturbed.output
    assert disturbed.summary["lost_workers"] == [3]
    used = {worker: [worker in line["replies"] for line in disturbed.steps] for worker in range(4)}
    assert not any(used[3][5:])
    assert not used[1][8]
    assert any(used[1][9:])
    assert not used[0][25]
    assert not used[0][30]
    assert disturbed.summary["foreign_messages"] == 1
    assert disturbed.summary["final_train_loss"] == pytest.approx(undisturbed.summary["final_train_loss"], rel=1e-4)


def test_a_run_that_loses_too_many_workers_starts_again_with_all_of_them(start, simulated):
    events = 'stragglers.events=[{fault = "kill", worker = 0, step = 15}, {fault = "kill", worker = 3, step = 17}]'
    job = start("run", "run.restart=1", "run.on_loss=stop", events)
    ended = job.end()
    undisturbed = simulated()
    assert ended.code == 0, ended.output
    assert "worker 0 (rank 1) is lost" in ended.output
    assert "0 more may go" in ended.output
    assert "restart 1 of 1" in ended.output
    assert [line["step"] for line in ended.steps] == list(range(30))
    assert ended.summary["resumed"] == 1
    assert ended.summary["lost_workers"] == []
    assert ended.summary["losses_left"] == 1
    assert ended.summary["final_train_loss"] == pytest.approx(undisturbed.summary["final_train_loss"], rel=1e-4)


def test_the_ranks_do_not_outlive_a_killed_launcher_and_leave_a_checkpoint(start):
    job = start("run", "steps=1000000", "run.checkpoint_every=0", "run.eval_every=0")
    job.until_step(5)
    os.kill(job.process.pid, signal.SIGKILL)
    ended = job.end(20.0)
    assert len(list((ended.folder / "checkpoint").glob("step-*.npz"))) == 1


LONG = """
import time
from gcdl.problems import linear_model
original = linear_model._CodedGradient.compute
def compute(self, parameters, step, out):
    from mpi4py import MPI
    if step >= 3 and MPI.COMM_WORLD.rank == 2:
        time.sleep(300.0)
    return (yield from original(self, parameters, step, out))
linear_model._CodedGradient.compute = compute
from gcdl.cli import main
main()
"""


@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["stopped", "master killed"])
def test_a_worker_in_a_long_pass_does_not_outlive_the_run(start, killed):
    job = start("train", "steps=30" if not killed else "steps=1000000", script=LONG, survive=True)
    if killed:
        job.until_step(20)
        os.kill(job.pid(0), signal.SIGKILL)
    ended = job.end(40.0)
    if not killed:
        assert ended.summary["steps"] == 30
        assert any("not waiting any longer" in line for line in ended.output.splitlines())


def test_a_spare_takes_the_place_of_a_lost_worker(start):
    events = 'stragglers.events=[{fault = "kill", worker = 3, step = 5}, {fault = "kill", worker = 3, step = 400}]'
    residuals = ("compressor.kind=scaled_sign", "compressor.error_feedback=true", "steps=500")
    job = start("run", "run.spares=1", events, *residuals, "run.checkpoint_every=150").end()
    assert job.code == 0, job.output
    assert "worker 3 (rank 4) is lost" in job.output
    assert "worker 3 (rank 5" in job.output
    assert job.summary["replaced_workers"] == [3]
    assert job.summary["lost_workers"] == [3]  # the spare was killed too, and there is no other
    used = [3 in line["replies"] for line in job.steps]
    assert any(used[:5])
    assert any(used[6:400])
    assert not any(used[400:])
    gone = [3 in line["lost"] for line in job.steps]
    assert any(gone[5:400])
    assert not gone[399]
    assert [step for step, line in enumerate(job.steps) if line["fresh"]] == [gone.index(False, gone.index(True))]
    assert replay(job.folder).startswith("identical: 500 steps")
    # Unused spares leave like everybody else.
    idle = start("train", "run.spares=2", "steps=5", ranks=7).end()
    assert idle.code == 0, idle.output
    assert idle.summary["workers"] == 4
    assert any(line.startswith("no fault tolerance under this launcher") for line in idle.output.splitlines()), idle.output


DEATHS = """
import ctypes, os, signal, threading, time
from pathlib import Path
from gcdl.problems import linear_model
original = linear_model._CodedGradient.compute
ends = [
    None, lambda: os.kill(os.getpid(), signal.SIGKILL), os.abort, lambda: ctypes.string_at(0),
    lambda: os._exit(0), lambda: os._exit(3),
]
def compute(self, parameters, step, out):
    from mpi4py import MPI
    worker = MPI.COMM_WORLD.rank - 1
    if step == 3 and worker == 0:
        time.sleep(5.0)
    if step == 3 and worker > 0:
        threading.Timer(1.0 + 0.4 * worker, lambda: (Path(f"died{worker}").write_text(""), ends[worker]())).start()
    return (yield from original(self, parameters, step, out))
linear_model._CodedGradient.compute = compute
from gcdl.cli import main
main()
"""


@pytest.mark.alone
def test_whatever_ends_a_worker_is_noticed_within_a_second_though_the_step_goes_on_and_nothing_is_due_from_it(start, tmp_path):
    lenient = ("workers=6", "code.kind=uncoded", "wait.kind=deadline", "wait.seconds=30.0", "steps=5")
    job = start("train", *lenient, script=DEATHS, ranks=7, survive=True)
    for worker in range(1, 6):
        job.until_output(f"worker {worker} (rank {worker + 1}) is lost: its process (pid ")
        noticed = time.time() - (tmp_path / f"died{worker}").stat().st_mtime
        assert noticed < 1.0, (worker, noticed)
    ended = job.end()
    assert ended.summary["lost_workers"] == [1, 2, 3, 4, 5]
    for worker in range(1, 6):
        (line,) = (line for line in ended.output.splitlines() if f"worker {worker} (rank" in line)
        assert line.startswith("step 3: ")
        assert f"on {platform.node()}) ended at step 3; it last answered step 3" in line
        assert line.endswith(f"the run goes on, {5 - worker} more may go")


def test_a_new_process_takes_the_place_of_a_lost_worker_again_and_again(start):
    events = ", ".join(f'{{fault = "kill", worker = 3, step = {step}}}' for step in (5, 400, 800))
    slowly = (
        "stragglers.kind=fixed",
        "stragglers.workers=[0,1,2]",
        "stragglers.seconds=0.005",
        f"stragglers.events=[{events}]",
    )
    residuals = ("compressor.kind=scaled_sign", "compressor.error_feedback=true", "steps=900", "run.checkpoint_every=300")
    job = start("run", "run.replace=2", *slowly, *residuals).end()
    assert job.code == 0, job.output
    assert job.summary["replaced_workers"] == [3, 3]
    assert job.summary["lost_workers"] == [3]  # the third loss is one too many
    used = [3 in line["replies"] for line in job.steps]
    assert all(any(used[begin:end]) for begin, end in ((0, 5), (6, 400), (401, 800)))
    assert not any(used[800:])
    lost = [line for line in job.messages if "is lost" in line]
    assert [f"worker 3 (rank {rank}) is lost" in line for rank, line in zip((4, 5, 6), lost, strict=True)] == [True] * 3
    assert "noticed that process rank" not in job.output  # mpirun's way to say the same
    assert sum(bool(line["fresh"]) for line in job.steps) == 2
    assert replay(job.folder).startswith("identical: 900 steps")


@pytest.mark.parametrize(
    "killed", [0, pytest.param(5, marks=pytest.mark.exhaustive)], ids=["the master is killed", "the replacement is killed"]
)
def test_under_mpirun_too_a_replacement_comes_and_leaves_with_the_run(start, killed):
    events = 'stragglers.events=[{fault = "kill", worker = 1, step = 5}]'
    job = start("train", "steps=1000000", "run.replace=1", "run.eval_every=0", events, survive=True)
    job.until_output("worker 1 (rank 5, host")
    os.kill(job.pid(killed), signal.SIGKILL)
    if killed:
        job.until_output("worker 1 (rank 5) is lost")
        os.kill(job.pid(0), signal.SIGINT)
    ended = job.end(20.0)
    if killed:
        assert "goes on, 0 more may go" in ended.output
        assert "gcdl resume" in ended.output

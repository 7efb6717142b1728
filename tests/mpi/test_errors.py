"""Jobs that go wrong: one clear message from rank 0, the right exit code, nobody left."""

from __future__ import annotations

import platform

import pytest

pytestmark = pytest.mark.mpi


# What is found while the config is read, while its objects are built, and when the data is looked for. The messages
# themselves, and gcdl run, which finds all of it before it starts any rank, have tests without MPI.
@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("code.straglers=1",), "code.straglers: unknown key"),
        (("stragglers.kind=fixed", "stragglers.workers=[2]"), "worker ids are 0 to 1"),
        (("problem.kind=classifier", "problem.dataset=fashion_mnist", "problem.data=/no/such/folder"), "/no/such/folder"),
    ],
)
def test_what_the_user_got_wrong_is_said_once_and_ends_with_2(start, overrides, says):
    job = start("train", "workers=2", *overrides, ranks=3).end(60.0)
    assert job.code == 2, job.output
    assert len(job.messages) == 1, job.output
    assert says in job.messages[0]
    assert "Traceback" not in job.output
    assert not job.folder.exists()


def test_a_wrong_number_of_ranks_is_said_once_with_the_right_one(start):
    job = start("train", "workers=8").end(60.0)
    assert job.code == 2, job.output
    assert len(job.messages) == 1, job.output
    assert "the config says 8, but there are 4 (ranks - 1); start 9 ranks" in job.messages[0]


def test_a_run_does_not_overwrite_another(start, tmp_path):
    (tmp_path / "run0").mkdir()
    (tmp_path / "run0" / "summary.json").write_text("precious")
    job = start("train", "workers=2", ranks=3).end(60.0)
    assert job.code == 2, job.output
    assert len(job.messages) == 1
    assert (tmp_path / "run0" / "summary.json").read_text() == "precious"


def test_a_gradient_that_is_not_finite_is_an_error_that_names_worker_step_and_tensor(start):
    job = start("run", "optimizer.lr=1e30", "compressor.kind=stochastic_sign").end(60.0)
    assert job.code == 4, job.output
    assert len([message for message in job.messages if "NaN" in message]) == 1, job.output
    assert "step" in job.messages[-1]
    assert "'weight'" in job.messages[-1]


def test_a_worker_that_raises_sends_its_traceback_home_once(start):
    events = 'stragglers.events=[{fault = "raise", worker = 2, step = 7}]'
    job = start("train", "run.checkpoint_every=5", "code.stragglers=0", events).end(60.0)
    assert job.code == 4, job.output
    assert job.output.count("Traceback") == 1, job.output
    said = f"worker 2 (rank 3, host {platform.node()}), step 7: InjectedError: an injected fault of worker 2 at step 7"
    assert [said in message for message in job.messages if "Injected" in message] == [True], job.output
    assert sorted(path.name for path in (job.folder / "checkpoint").iterdir()) == ["step-00000005.npz", "step-00000007.npz"]


UNFORESEEN = """
import sys
from gcdl.protocol import master
def broken(self, step):
    raise RuntimeError("a bug in the master")
master.Master._step = broken
from gcdl.cli import main
main()
"""


def test_an_unforeseen_error_of_the_master_ends_all_ranks(start):
    job = start("train", script=UNFORESEEN).end(60.0)
    assert job.code == 1, job.output
    assert job.output.count("Traceback") == 1
    assert "a bug in the master" in job.output


def test_a_step_that_nobody_answers_ends_the_run_and_says_whom_it_waited_for(start):
    job = start("run", "wait.timeout=1.0", "stragglers.kind=bernoulli", "stragglers.p=1.0", "stragglers.seconds=inf").end(60.0)
    assert job.code == 3, job.output
    assert any("waited for workers 0, 1, 2, 3" in message for message in job.messages), job.output


def test_a_step_that_times_out_is_decoded_from_what_came(start):
    job = start(
        "run", "steps=3", "wait.timeout=0.5", "wait.count=4",
        "stragglers.kind=fixed", "stragglers.workers=[0,1]", "stragglers.seconds=inf",
    ).end(60.0)  # fmt: skip
    assert job.code == 0, job.output
    assert [line["timed_out"] for line in job.steps] == [True] * 3
    assert [line["replies"] for line in job.steps] == [[2, 3]] * 3
    assert all(line["decoding_error"] > 1.0 for line in job.steps)
    assert job.summary["timed_out_steps"] == 3


SLOW = """
import os, time
from gcdl.problems.linear_model import LinearModel
from gcdl.training.roles import worker
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
load, evaluator = LinearModel.load, LinearModel.evaluator
{patch}
from gcdl.cli import main
main()
"""


def test_ranks_wait_for_a_master_that_loads_for_long(start):
    patch = """
worker.run_worker.__defaults__ = (None, 8.0)  # seconds; two minutes, otherwise
LinearModel.evaluator = lambda self: (time.sleep(12.0), evaluator(self))[1]
"""
    ended = start("train", "steps=2", script=SLOW.format(patch=patch)).end()
    assert ended.code == 0, ended.output
    assert ended.summary["steps"] == 2


def test_who_still_loads_when_the_run_ends_is_waited_for(start):
    patch = """
def slowly(self, shards):
    if rank == 1:
        raise RuntimeError("no data here")
    time.sleep(2.0)
    return load(self, shards)
LinearModel.load = slowly
"""
    ended = start("train", script=SLOW.format(patch=patch), survive=True).end()
    assert "no data here" in ended.output
    assert "not waiting any longer" not in ended.output, ended.output

"""Several masters: the model of one, to the bit; who dies is named as what it was, and nothing hangs."""

from __future__ import annotations

import os
import signal
import time

import pytest

from gcdl.analysis.replay import replay
from tests.conftest import telling

pytestmark = pytest.mark.mpi

CONFIG = """
seed = 3
workers = 3
steps = 6
[problem]
kind = "linear_regression"
features = 530000
samples = 6
[code]
kind = "cyclic_repetition"
stragglers = 1
[wait]
count = 3
[optimizer]
lr = 1e-5
[run]
eval_every = 2
checkpoint_every = 3
"""
SGC = ["code.kind=sgc", "code.replication=2", "wait.count=3"]
CASES = {
    "sign model": ["compressor.kind=sign"],
    "dither votes": [
        *SGC, "compressor.kind=stochastic_sign", "compressor.dither=correlated+subtractive", "downlink.kind=votes",
    ],
    "dither replies": [
        "compressor.kind=stochastic_sign", "compressor.dither=independent", "downlink.kind=replies", "run.master_threads=3",
    ],
    "feedback sign clip": [
        "compressor.kind=scaled_sign", "compressor.error_feedback=true", "downlink.kind=sign",
        "optimizer.kind=adam", "optimizer.lr=0.001", "optimizer.clip_norm=1.0",
    ],
    "blocks mmse": ["compressor.kind=stochastic_sign", "compressor.block=100", "code.decoder=mmse", "downlink.dtype=bfloat16"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "masters"),
    [
        ("dither votes", 2),
        *(pytest.param(case, masters, marks=pytest.mark.exhaustive) for case in CASES for masters in (2, 3, 5)),
    ],
)
def test_any_number_of_masters_gives_the_model_of_one(start, simulated, case, masters):
    one = simulated(*CASES[case], config=CONFIG)
    ended = start("run", *CASES[case], f"run.masters={masters}", config=CONFIG).end()
    assert ended.code == 0, ended.output
    assert ended.summary["model_sha256"] == one.summary["model_sha256"]
    for key in ("train_loss", "gradient_norm", "noise_gain", "test_loss"):
        assert [line.get(key) for line in ended.steps] == [line.get(key) for line in one.steps], key
    replay(ended.folder)


@pytest.mark.exhaustive
def test_bytes_are_those_of_all_slices(start):
    one = start("run", "run.shared_memory=false", config=CONFIG).end()
    two = start("run", "run.shared_memory=false", "run.masters=2", config=CONFIG).end()
    assert two.summary["uplink_bytes"] == one.summary["uplink_bytes"] + 6 * 3 * 64
    assert two.summary["downlink_bytes"] == one.summary["downlink_bytes"] + 6 * 3 * 64
    assert [line["uplink_bytes"] for line in two.steps] == [line["uplink_bytes"] + 3 * 64 for line in one.steps]


@pytest.mark.parametrize("case", telling(("dither votes", "feedback sign clip"), "feedback sign clip"))
def test_a_simulation_counts_the_bytes_that_mpi_is_handed(start, simulated, case):
    given = [*CASES[case], "run.masters=3", "run.shared_memory=false"]
    real, counted = start("run", *given, config=CONFIG).end(), simulated(*given, config=CONFIG)
    for direction in ("uplink", "downlink"):
        for key in (f"{direction}_bytes", f"{direction}_header_bytes"):
            assert [line[key] for line in real.steps] == [line[key] for line in counted.steps], key


@pytest.mark.exhaustive
def test_ranks_that_workers_and_spares_leave_are_masters_where_their_number_is_open(start, simulated):
    given = ["workers=3", "run.spares=1", "run.masters=0", "wait.count=3"]
    ended = start("train", *given, config=CONFIG, ranks=6).end()
    assert ended.code == 0, ended.output
    assert ended.summary["masters"] == 2
    one = simulated("wait.count=3", config=CONFIG)
    assert ended.summary["model_sha256"] == one.summary["model_sha256"]


def test_a_model_that_is_too_small_has_one_master_and_the_others_wait(start, simulated):
    ended = start("run", "wait.count=4", "run.masters=3").end()
    assert ended.code == 0, ended.output
    assert "enough for 1 master" in ended.output
    assert ended.summary["model_sha256"] == simulated("wait.count=4").summary["model_sha256"]


def test_a_killed_worker_is_in_nobodys_arrived_set_and_a_spare_takes_its_place(start):
    job = start("run", "steps=150", "wait.count=2", "run.masters=2", "run.spares=1", "run.eval_every=0", config=CONFIG)
    job.until_step(5)
    os.kill(job.pid(3), signal.SIGKILL)  # ranks 0 and 1 are masters: worker 1
    ended = job.end()
    assert ended.code == 0, ended.output
    assert "worker 1 (rank 3" in ended.output
    assert ended.summary["replaced_workers"] == [1]
    assert ended.steps[-1]["lost"] == []
    replay(ended.folder)


def test_a_killed_slice_master_ends_the_run_with_3_and_it_goes_on_with_another_number(start, simulated):
    job = start("run", "steps=100000", "run.masters=3", "run.checkpoint_every=5", "run.eval_every=0", config=CONFIG)
    job.until_step(12)
    os.kill(job.pid(2), signal.SIGKILL)
    began = time.monotonic()
    ended = job.end()
    assert ended.code == 3, ended.output
    assert time.monotonic() - began < 30.0
    assert "slice master 2 (rank 2" in ended.output
    reached = max(int(path.stem.removeprefix("step-")) for path in (ended.folder / "checkpoint").glob("step-*.npz"))
    resumed = start.resume("resume", ended, f"steps={reached + 3}", "run.masters=2").end()
    assert resumed.code == 0, resumed.output
    whole = simulated(f"steps={reached + 3}", "run.eval_every=0", config=CONFIG)
    assert resumed.summary["model_sha256"] == whole.summary["model_sha256"]


@pytest.mark.exhaustive
def test_a_stopped_slice_master_is_waited_for_by_name(start):
    job = start("run", "steps=60", "run.masters=2", "run.eval_every=0", config=CONFIG)
    job.until_step(5)
    pid = job.pid(1)
    os.kill(pid, signal.SIGSTOP)
    try:
        job.until_output("slice master 1 (rank 1", 40.0)
    finally:
        os.kill(pid, signal.SIGCONT)
    ended = job.end()
    assert ended.code == 0, ended.output


def test_an_exception_in_a_worker_and_an_interrupt_end_all_masters(start):
    raised = start("run", 'stragglers.events=[{fault = "raise", worker = 1, step = 2}]', "run.masters=2", config=CONFIG).end()
    assert raised.code == 4, raised.output
    job = start("run", "steps=100000", "run.masters=2", config=CONFIG)
    job.until_step(4)
    job.process.send_signal(signal.SIGINT)
    ended = job.end()
    assert ended.code == 130, ended.output
    assert list((ended.folder / "checkpoint").glob("step-*.npz"))


def test_a_script_has_several_masters_too(start):
    script = """
import sys, torch, gcdl
x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
loss = lambda out, y: (out - y).square().mean()
problem = gcdl.TorchProblem(lambda: torch.nn.Linear(3, 100_000), loss, (x, x.sum(1, keepdim=True)))
trainer = gcdl.Trainer(problem, run={"masters": 2, "eval_every": 0}, out=sys.argv[-1])
for record in trainer.fit(3):
    pass
model = trainer.model
print("sum", round(sum(p.detach().double().sum().item() for p in model.parameters()), 6), flush=True)
"""
    ended = start("train", script=script, ranks=5).end()
    assert ended.code == 0, ended.output
    sums = [line for line in ended.output.splitlines() if line.startswith("sum ")]
    assert len(sums) == 5, ended.output
    assert len(set(sums)) == 1, ended.output

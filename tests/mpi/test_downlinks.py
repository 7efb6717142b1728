"""Downlinks over MPI: workers that follow updates compute what workers with the whole model do, whatever becomes of them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gcdl.analysis.replay import replay
from tests.conftest import telling

pytestmark = pytest.mark.mpi

BIT = ("compressor.kind=stochastic_sign", "compressor.dither=correlated+subtractive", "compressor.agreed=true",
       "problem.features=3700", "optimizer.momentum=0.9", "optimizer.lr=0.002")  # fmt: skip
LATE = ("stragglers.kind=fixed", "stragglers.workers=[1]", "stragglers.seconds=5.0")
"""Who arrives is the same in each step: runs can be compared by their models."""
KINDS = {
    "votes": ("downlink.kind=votes", "downlink.check_every=4"),
    "replies": ("downlink.kind=replies", "downlink.check_every=4"),
    "sign": ("downlink.kind=sign", "downlink.check_every=4"),
    "bfloat16": ("downlink.dtype=bfloat16",),
}


@pytest.mark.parametrize("kind", telling(KINDS, "votes", "sign"))
def test_workers_that_missed_steps_catch_up_and_a_run_is_its_simulation_to_the_bit(start, simulated, kind):
    # Worker 2 is away for a few steps, then for the rest: what it missed comes as updates, or as a snapshot.
    away = 'stragglers.events=[{fault="stop",worker=1,step=3,seconds=0.2},{fault="stop",worker=1,step=9,seconds=0.6}]'
    job = start("run", *BIT, *LATE, *KINDS[kind], away, "steps=60")
    alone = simulated(*BIT, *LATE, *KINDS[kind], "steps=60")
    ended = job.end()
    assert ended.code == 0, ended.output
    assert ended.summary["resent_models"] == {}
    assert all(line["replies"] == [0, 2, 3] for line in ended.steps)
    assert ended.summary["model_sha256"] == alone.summary["model_sha256"]
    if kind in ("votes", "replies"):
        whole = simulated(*BIT, *LATE, "steps=60")
        assert ended.summary["model_sha256"] == whole.summary["model_sha256"]
    assert ended.summary["clipped_coordinates"] == alone.summary["clipped_coordinates"]


def test_with_momentum_at_the_workers_and_sign_steps_one_bit_goes_each_way_and_nothing_is_lost(start, simulated):
    lion = ("compressor.kind=sign", "compressor.momentum=lion", "optimizer.kind=sign", "problem.features=3700")
    away = 'stragglers.events=[{fault="stop",worker=1,step=3,seconds=0.2}]'
    ended = start("run", *lion, *LATE, "downlink.kind=votes", "downlink.check_every=4", away, "steps=40").end()
    assert ended.code == 0, ended.output
    assert ended.summary["resent_models"] == {}
    alone, whole = simulated(*lion, *LATE, "downlink.kind=votes", "steps=40"), simulated(*lion, *LATE, "steps=40")
    assert ended.summary["model_sha256"] == alone.summary["model_sha256"] == whole.summary["model_sha256"]
    bits, replies = -(-3700 // 8), 40 * 3
    assert alone.summary["uplink_bytes"] - alone.summary["uplink_header_bytes"] == replies * bits
    assert "identical" in replay(ended.folder)


@pytest.mark.exhaustive
def test_a_worker_is_used_again_after_it_missed_one_five_and_fifty_steps(start):
    # Who arrives is not known before: the replay of what was recorded has the whole model, and must find the same run.
    away = [(2, 0.05), (20, 0.2), (40, 1.0)]
    events = ",".join(f'{{fault="stop",worker=2,step={step},seconds={seconds}}}' for step, seconds in away)
    job = start("run", *BIT, "downlink.kind=votes", f"stragglers.events=[{events}]", "stragglers.kind=exponential",
                "stragglers.seconds=0.01", "steps=250", "downlink.check_every=3")  # fmt: skip
    ended = job.end()
    assert ended.code == 0, ended.output
    assert ended.summary["resent_models"] == {}
    used = [line["step"] for line in ended.steps if 2 in line["replies"]]
    gaps = [after - before - 1 for before, after in pairwise(used)]
    assert max(gaps) >= 5
    assert "identical" in replay(ended.folder)


def test_a_damaged_copy_is_found_by_its_hash_named_sent_anew_and_counted(start):
    job = start("run", *BIT, *LATE, "downlink.kind=votes", "downlink.check_every=5", "steps=40",
                'stragglers.events=[{fault="damage",worker=2,step=11}]')  # fmt: skip
    ended = job.end()
    assert ended.code == 0, ended.output
    assert ended.summary["resent_models"] == {"2": 1}
    assert ended.output.count("its copy of the model is not the master's") == 1
    assert "worker 2 (rank 3" in ended.output
    assert [line["step"] for line in ended.steps if line["resent"]] == [15]


def test_a_new_process_in_a_lost_workers_place_gets_the_model_and_a_resumed_run_goes_on_to_the_bit(start):
    # The run is interrupted for good when worker 3 raises; resumed, it has all workers again.
    events = '{fault="kill",worker=1,step=4},{fault="raise",worker=3,step=150}'
    job = start("run", *BIT, "downlink.kind=sign", "run.replace=1", "steps=300", f"stragglers.events=[{events}]",
                "stragglers.kind=bernoulli", "stragglers.p=0.2", "stragglers.seconds=0.05",
                "run.checkpoint_every=20")  # fmt: skip
    assert job.end().code == 4
    ended = start.resume("resume", job).end()
    assert ended.code == 0, ended.output
    assert ended.summary["resent_models"] == {}
    assert "identical" in replay(ended.folder)


def test_whole_models_are_read_in_shared_memory_and_counted_all_the_same(start, simulated):
    runs = [start("run", *BIT, *LATE, "steps=30", f"run.shared_memory={shared}").end() for shared in ("true", "false")]
    shared, sent = (run.summary for run in runs)
    assert shared["model_sha256"] == sent["model_sha256"] == simulated(*BIT, *LATE, "steps=30").summary["model_sha256"]
    assert sent["shared_bytes"] == 0
    # All tasks, even those to worker 1, which sleeps; less the reference that was sent in place of each model.
    assert shared["shared_bytes"] == 4 * 30 * (4 * 3700 - 64)
    task, rest = divmod(shared["downlink_bytes"], 4 * 30)
    assert rest == 0
    # Tasks to worker 1 that were superseded before they could be sent are not sent.
    assert sent["downlink_bytes"] in range(shared["downlink_bytes"] - 30 * task, shared["downlink_bytes"] + 1, task)

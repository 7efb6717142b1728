"""A run goes on when more workers are lost than its code tolerates: those that are left get the shards."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gcdl.analysis.replay import replay
from gcdl.config import Codings, Experiment, parse
from gcdl.errors import TooManyLost
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint
from tests.conftest import Heard

CONFIG = """
workers = 8
steps = 40
[problem]
kind = "linear_regression"
features = 9
samples = 5
batch_size = 3
[code]
kind = "fractional_repetition"
[optimizer]
lr = 0.05
[run]
eval_every = 0
"""


def kills(*pairs: tuple[int, int]) -> str:
    events = ", ".join(f'{{fault = "kill", worker = {worker}, step = {step}}}' for worker, step in pairs)
    return f"stragglers.events=[{events}]"


def run(folder, *overrides):
    watcher = Heard()
    return simulate(StartingPoint(parse(CONFIG, overrides), folder), watcher), watcher


FIVE = [(1, 3), (0, 6), (5, 6), (7, 11), (2, 20)]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("code.kind=cyclic_repetition",),
        ("code.kind=cyclic_mds",),
        ("code.kind=sgc", "code.stragglers=1"),
        ("code.kind=uncoded",),
        ("code.kind=bernoulli", "code.stragglers=1"),
        ("code.kind=graph", "code.stragglers=1"),
        ("wait.kind=decodable",),
        ("wait.kind=deadline", "wait.seconds=0.015"),
        ("wait.count=3",),
        ("wait.kind=adaptive",),
        ("code.verify=true",),
        ("compressor.kind=stochastic_sign",),
        ("compressor.kind=scaled_sign", "compressor.error_feedback=true"),
        ("compressor.kind=stochastic_sign", "compressor.scale=max", "downlink.kind=votes"),
        ("compressor.kind=sign", "code.decoder=majority", "downlink.kind=replies", "optimizer.kind=adam"),
        ("run.masters=3", "problem.features=70000", "steps=24", "optimizer.lr=1e-5"),
    ],
    ids=" ".join,
)
def test_five_of_eight_are_lost_and_the_run_goes_on_and_replays(tmp_path, overrides):
    summary, watcher = run(tmp_path / "run", kills(*FIVE), *overrides)
    assert summary.lost_workers == [0, 1, 2, 5, 7]
    assert len(watcher.records) == summary.steps
    last = watcher.records[-1]
    assert set(last.replies) <= {3, 4, 6}
    if "decodable" in str(overrides) or not overrides:
        assert last.decoding_error < 1e-9
    assert any(record.recoded for record in watcher.records)
    assert replay(tmp_path / "run").startswith(f"identical: {summary.steps} steps")


def test_all_but_one_are_lost(tmp_path):
    summary, watcher = run(tmp_path, kills(*((worker, 2 + worker) for worker in range(7))))
    assert summary.lost_workers == [0, 1, 2, 3, 4, 5, 6]
    last = watcher.records[-1]
    assert last.replies == [7]
    np.testing.assert_allclose(last.coverage, 1.0)
    assert replay(tmp_path).startswith("identical: 40 steps")


def test_only_when_nobody_is_left_does_the_run_end(tmp_path):
    with pytest.raises(TooManyLost, match="the 0 workers left"):
        run(tmp_path, kills(*((worker, 2 + worker) for worker in range(8))))


def test_stop_ends_the_run_as_before(tmp_path):
    with pytest.raises(TooManyLost, match=r"step 6: .* the 6 workers left are too few for the wait rule"):
        run(tmp_path, kills(*FIVE), "run.on_loss=stop")


def test_a_re_coded_run_is_gradient_descent_still(tmp_path):
    _, before = run(tmp_path / "all")
    _, after = run(tmp_path / "few", kills(*FIVE))
    whole = [record.train_loss for record in before.records]
    # But for the steps in which some are lost.
    assert [record.decoding_error < 1e-9 for record in after.records].count(False) <= 3
    assert after.records[-1].train_loss == pytest.approx(whole[-1], rel=0.05)


def test_what_is_recorded_is_the_code(tmp_path):
    run(tmp_path, kills(*FIVE))
    lines = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    recoded = {line["step"]: line["recoded"] for line in lines if "recoded" in line}
    assert list(recoded) == [7, 21]
    assert recoded[7]["workers"] == [2, 3, 4, 6, 7]
    assert recoded[7]["code"] == "fractional_repetition, 5 workers, stragglers = 1"
    for code in recoded.values():
        held = sorted(shard for shards in code["assignment"] for shard in shards)
        assert set(held) == set(range(8))
        assert len(held) >= 16  # with s = 1 every shard lies on two workers
    # Workers whose row changed begin afresh; nobody else.
    assert [line["fresh"] for line in lines if line["step"] == 7] == [[2, 3, 4, 6, 7]]
    assert all(line["fresh"] == [] for line in lines if line["step"] not in recoded)


def test_rows_that_are_alike_go_to_workers_that_lie_far_apart():
    experiment = Experiment.of(parse(CONFIG), 8).check()
    coding = Codings(experiment).among([0, 1, 2, 3], 1)
    shifts = experiment.code.shifts
    for first in range(4):
        partner = next(j for j in range(4) if j != first and coding.code.B[j].tobytes() == coding.code.B[first].tobytes())
        order = sorted(range(4), key=lambda worker: shifts[worker])
        assert (order.index(first) - order.index(partner)) % 4 == 2


@pytest.mark.parametrize(("count", "then"), [(8, 3), (7, 2), (3, 2), (1, 1)])
def test_a_stated_number_of_replies_becomes_smaller_with_the_workers(count, then):
    experiment = Experiment.of(parse(CONFIG, [f"wait.count={count}"]), 8).check()
    wait = Codings(experiment).among([1, 4, 6], 1).wait
    arrived = np.zeros(8, dtype=bool)
    enough = []
    for worker in (4, 1, 6):
        arrived[worker] = True
        enough.append(wait.enough(arrived))
    assert enough.index(True) + 1 == then

"""A run that ended early goes on with another number of workers, another code, compressor or downlink."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gcdl.analysis.plots import plot
from gcdl.analysis.replay import replay
from gcdl.analysis.reply_times import report
from gcdl.analysis.report_data import run_data
from gcdl.config import parse
from gcdl.errors import ConfigError, DataError, Interrupted
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint, resume
from tests.conftest import Heard

CONFIG = """
seed = 5
workers = 8
steps = 24
[problem]
kind = "linear_regression"
features = 21
samples = 9
batch_size = 4
[code]
kind = "fractional_repetition"
stragglers = 1
[optimizer]
lr = 0.02
momentum = 0.9
[run]
eval_every = 7
checkpoint_every = 4
"""
ALL = ("wait.kind=deadline", "wait.seconds=9.0")


class Interrupting(Heard):
    """Interrupts the run after a step."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        super().__init__()
        self.interrupt_at = interrupt_at

    def step(self, record):
        super().step(record)
        if record.step == self.interrupt_at:
            raise Interrupted("interrupted")


def run(folder, *overrides, until=None):
    """Run until ``until`` steps are done; then it is interrupted."""
    start = StartingPoint(parse(CONFIG, overrides), folder)
    return ended(start, until)


def go_on(folder, *overrides, until=None):
    return ended(resume(folder, overrides), until)


def ended(start, until):
    watcher = Interrupting(None if until is None else until - 1)
    if until is None:
        return simulate(start, watcher), watcher
    with pytest.raises(Interrupted):
        simulate(start, watcher)
    return None, watcher


def lines(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["fractional_repetition", "cyclic_repetition", "cyclic_mds", "uncoded", "sgc"])
def test_with_five_and_then_with_twelve_workers_the_loss_is_that_of_the_undisturbed_run(tmp_path, kind):
    code = f"code.kind={kind}"
    run(tmp_path / "whole", code, *ALL)
    run(tmp_path / "cut", code, *ALL, until=8)
    go_on(tmp_path / "cut", "workers=5", until=16)
    summary, _ = go_on(tmp_path / "cut", "workers=12")
    whole, cut = lines(tmp_path / "whole"), lines(tmp_path / "cut")
    assert [len(line["replies"]) for line in cut] == [8] * 8 + [5] * 8 + [12] * 8
    if kind != "sgc":  # which is right on average
        assert [line["train_loss"] for line in cut] == pytest.approx([line["train_loss"] for line in whole], rel=1e-5)
    assert {line["step"]: len(line["recoded"]["workers"]) for line in cut if "recoded" in line} == {8: 5, 16: 12}
    assert summary.workers == 12
    assert len(summary.shard_coverage) == 8
    assert replay(tmp_path / "cut").startswith("identical: 24 steps")


def test_the_folder_can_be_drawn_and_read(tmp_path):
    run(tmp_path / "run", until=8)
    go_on(tmp_path / "run", "workers=5")
    plot([tmp_path / "run"], tmp_path / "run.png")
    assert run_data(tmp_path / "run")["who"]["workers"] == 8
    assert "8 workers" in report(tmp_path / "run", tmp_path / "trace.csv")
    config = parse((tmp_path / "run" / "config.toml").read_text())
    assert (config.workers, config.choices["problem"].values["shards"]) == (5, 8)
    again = parse(CONFIG, [f"simulate.compute={tmp_path / 'run'}"])
    simulate(StartingPoint(again, tmp_path / "again"), Heard())


RESIDUALS = ("compressor.kind=scaled_sign", "compressor.error_feedback=true")


def test_workers_whose_row_stays_keep_their_residual(tmp_path):
    # Uncoded, the first of five workers have two shards and the last one; of eight, one each.
    run(tmp_path / "run", "code.kind=uncoded", "problem.shards=10", "workers=5", *RESIDUALS, until=8)
    _, watcher = go_on(tmp_path / "run", "workers=4", "code.kind=uncoded")
    fresh = lines(tmp_path / "run")[8]["fresh"]
    # Five workers have (0, 1), (2, 3), ...; four have (0, 1, 2), (3, 4, 5), (6, 7), (8, 9): the last two are workers 3 and 4.
    assert fresh == [0, 1]
    assert any("worker 0, 1 starts afresh" in line for line in watcher.lines)
    assert replay(tmp_path / "run").startswith("identical: 24 steps")


@pytest.mark.parametrize(
    "overrides",
    [
        ("workers=5",),
        ("workers=6", "code.kind=cyclic_repetition", "problem.shards=6"),
        ("compressor.kind=stochastic_sign",),
        ("compressor.kind=scaled_sign", "compressor.error_feedback=true", "downlink.kind=sign"),
        ("downlink.kind=replies",),
        ("workers=4", "compressor.kind=stochastic_sign", "compressor.scale=max", "downlink.kind=votes"),
        ("run.masters=2",),
    ],
    ids=" ".join,
)
def test_what_may_change_and_replays(tmp_path, overrides):
    run(tmp_path, *RESIDUALS, "downlink.kind=sign", until=8)
    if "problem.shards=6" in overrides:
        with pytest.raises(ConfigError, match=r"problem\.shards: cannot change"):
            go_on(tmp_path, *overrides)
        return
    go_on(tmp_path, *overrides, until=13)
    summary, _ = go_on(tmp_path)
    assert summary.steps == 24
    assert replay(tmp_path).startswith("identical: 24 steps")


def test_a_code_that_the_user_states_must_fit(tmp_path):
    run(tmp_path, until=8)
    with pytest.raises(ConfigError, match=r"code.*must divide the number of workers, 5"):
        go_on(tmp_path, "workers=5", "code.stragglers=1")
    go_on(tmp_path, "workers=5", "code.stragglers=4")
    assert np.count_nonzero(lines(tmp_path)[8]["recoded"]["weights"]) == 40


def test_resumed_twice_from_the_same_checkpoint_the_last_counts(tmp_path):
    run(tmp_path, *RESIDUALS, "run.checkpoint_every=8", "run.keep=9", until=8)
    go_on(tmp_path, "workers=5", "run.checkpoint_every=0", until=11)
    for path in (tmp_path / "checkpoint").glob("*11.npz"):
        path.unlink()
    go_on(tmp_path, "workers=3", "compressor.kind=stochastic_sign", "compressor.error_feedback=false", until=12)
    summary, _ = go_on(tmp_path, "workers=8")
    assert summary.resumed == 3
    assert {line["step"]: len(line["recoded"]["workers"]) for line in lines(tmp_path) if "recoded" in line} == {8: 3, 12: 8}
    assert replay(tmp_path).startswith("identical: 24 steps")


def test_after_losses_a_resumed_run_has_all_its_workers_again(tmp_path):
    kills = ", ".join(f'{{fault = "kill", worker = {worker}, step = {2 + worker}}}' for worker in range(5))
    run(tmp_path, *RESIDUALS, f"stragglers.events=[{kills}]", until=11)
    assert len(lines(tmp_path)[10]["lost"]) == 5
    summary, _ = go_on(tmp_path)
    assert summary.lost_workers == []
    assert lines(tmp_path)[11]["recoded"]["workers"] == list(range(8))
    assert replay(tmp_path).startswith("identical: 24 steps")


def test_a_stated_number_of_replies_follows(tmp_path):
    run(tmp_path, "wait.count=7", until=8)
    go_on(tmp_path, "workers=5")
    assert [len(line["replies"]) for line in lines(tmp_path)[8:]] == [4] * 16


@pytest.mark.parametrize(
    "damage",
    [
        3, [], {}, {"workers": [9], "assignment": [[0]], "weights": [[1.0]]},
        {"workers": [0], "assignment": [], "weights": []}, {"workers": [0], "assignment": [7], "weights": [[1.0]]},
        {"workers": [0], "assignment": [[99]], "weights": [[1.0]]}, {"workers": [0], "assignment": [["a"]], "weights": [[1.0]]},
        {"workers": [0], "assignment": [[0]], "weights": [[1.0]], "stragglers": 0, "number": 1, "code": ""},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_of_a_code_that_is_none_is_refused(tmp_path, damage):
    kill = 'stragglers.events=[{fault = "kill", worker = 0, step = 2}, {fault = "kill", worker = 1, step = 2}]'
    run(tmp_path, kill)
    changed = [{**line, "recoded": damage} if "recoded" in line else line for line in lines(tmp_path)]
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
    with pytest.raises(DataError, match=r"steps\.jsonl, line \d+: "):
        replay(tmp_path)

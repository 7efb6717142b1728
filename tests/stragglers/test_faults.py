"""Injected faults strike the worker they name, at the step they name, once."""

from __future__ import annotations

import numpy as np
import pytest

from gcdl.config import Experiment, parse
from gcdl.errors import ConfigError, TooManyLost, WorkerError
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint, resume
from tests.conftest import Heard

CONFIG = """
workers = 4
steps = 12
[problem]
kind = "linear_regression"
features = 9
samples = 5
[code]
kind = "fractional_repetition"
[wait]
timeout = 60.0
[optimizer]
lr = 0.05
[run]
checkpoint_every = 3
"""


def run(folder, events, *overrides):
    watcher = Heard()
    config = parse(CONFIG, [f"stragglers.events={events}", *overrides])
    return simulate(StartingPoint(config, folder), watcher), watcher.records


def test_a_kill_is_a_worker_lost_at_that_step(tmp_path):
    summary, records = run(tmp_path, '[{fault = "kill", worker = 1, step = 4}]')
    assert [record.lost for record in records] == [[]] * 4 + [[1]] * 8
    assert summary.lost_workers == [1]
    assert records[-1].replies == [0, 2, 3]


def test_too_many_kills_end_the_run_and_do_not_strike_again_when_it_is_resumed(tmp_path):
    events = '[{fault = "kill", worker = 1, step = 4}, {fault = "kill", worker = 2, step = 4}]'
    with pytest.raises(TooManyLost, match=r"step 4.*lost: 1, 2"):
        run(tmp_path, events, "run.on_loss=stop")
    watcher = Heard()
    summary = simulate(resume(tmp_path, ()), watcher)
    assert watcher.done == 4
    assert summary.lost_workers == []
    assert watcher.records[-1].lost == []


def test_a_fault_beyond_what_was_reached_still_strikes_a_resumed_run(tmp_path):
    run(tmp_path, '[{fault = "kill", worker = 1, step = 2}, {fault = "kill", worker = 0, step = 9}]', "steps=6")
    assert simulate(resume(tmp_path, ("steps=12",)), Heard()).lost_workers == [0]


def test_a_stop_is_silence_for_its_seconds(tmp_path):
    _, records = run(tmp_path, '[{fault = "stop", worker = 1, step = 4, seconds = 0.09}]', "wait.count=4")
    assert [record.seconds for record in records] == pytest.approx([0.02] * 4 + [0.11] + [0.02] * 7)
    _, records = run(tmp_path / "for ever", '[{fault = "stop", worker = 1, step = 4}]')
    assert [1 in record.replies for record in records] == [True] * 4 + [False] * 8


def test_a_fault_waits_for_a_job_that_begins(tmp_path):
    # Stopped at step 4, 0.08 s, for 0.05 s: the first job after that is the one of step 6.
    events = '[{fault = "stop", worker = 1, step = 4, seconds = 0.05}, {fault = "kill", worker = 1, step = 5}]'
    _, records = run(tmp_path, events)
    assert [record.lost for record in records] == [[]] * 6 + [[1]] * 6
    assert [1 in record.replies for record in records] == [True] * 4 + [False] * 8


@pytest.mark.parametrize("events", ['{fault = "kill", worker = 1, step = 4}', '{fault = "corrupt", worker = 0, step = 3}'])
def test_the_clock_alone_meets_the_same_faults(tmp_path, events):
    given = parse(CONFIG, [f"stragglers.events=[{events}]", "run.checksums=true"])
    watchers = Heard(), Heard()
    real = simulate(StartingPoint(given, tmp_path / "real"), watchers[0])
    clock = simulate(StartingPoint(given, tmp_path / "clock", timing_only=True), watchers[1])
    assert [record.replies for record in watchers[0].records] == [record.replies for record in watchers[1].records]
    for key in ("seconds", "uplink_bytes", "downlink_bytes", "lost_workers", "foreign_messages"):
        assert getattr(real, key) == getattr(clock, key)
    assert real.lost_workers or real.foreign_messages


def test_slow_is_a_delay_in_one_step(tmp_path):
    _, records = run(tmp_path, '[{fault = "slow", worker = 1, step = 4, seconds = 0.5}]', "wait.count=4")
    assert [record.seconds for record in records] == pytest.approx([0.02] * 4 + [0.52] + [0.02] * 7)


def test_raise_is_a_worker_error_with_its_traceback(tmp_path):
    with pytest.raises(WorkerError, match="injected fault of worker 3 at step 5") as caught:
        run(tmp_path, '[{fault = "raise", worker = 3, step = 5}]')
    assert "Traceback" in caught.value.traceback
    assert caught.value.exit_code == 4


def test_corrupt_changes_one_reply(tmp_path):
    whole, _ = run(tmp_path / "whole", "[]", "compressor.kind=sign", "steps=5")
    for fault in ('{fault = "corrupt", worker = 0, step = 4}', '{fault = "corrupt", worker = 0, step = 3}'):
        damaged, records = run(tmp_path / fault[-3:-1], f"[{fault}]", "compressor.kind=sign", "steps=5", "wait.count=4")
        assert all(len(record.replies) == 4 for record in records)
        assert damaged.model_sha256 != whole.model_sha256


def test_with_checksums_a_corrupt_reply_is_dropped_and_counted(tmp_path):
    whole, _ = run(tmp_path / "whole", "[]", "compressor.kind=sign", "wait.kind=decodable")
    events = '[{fault = "corrupt", worker = 0, step = 4}]'
    mended, records = run(tmp_path / "mended", events, "compressor.kind=sign", "wait.kind=decodable", "run.checksums=true")
    assert mended.foreign_messages == 1
    assert [record.step for record in records if 0 not in record.replies] == [4]
    assert mended.model_sha256 == whole.model_sha256


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ('{fault = "kil", worker = 1, step = 4}', r"stragglers\.events\.0\.fault: 'kil'"),
        (
            '{fault = "kill", worker = 9, step = 4}',
            r"events\.0\.worker: there is no worker 9; worker ids are 0 to 3",
        ),
        ('{fault = "kill", step = 4}', r"stragglers\.events\.0\.worker: missing"),
        ('{fault = "kill", worker = 1, step = 4, when = 3}', r"stragglers\.events\.0\.when"),
        ("3", r"stragglers\.events\.0"),
    ],
)
def test_a_wrong_event_is_named(event, says):
    with pytest.raises(ConfigError, match=says):
        Experiment.of(parse(CONFIG, [f"stragglers.events=[{event}]"]), 4)


def test_events_survive_the_resolved_config():
    config = parse(CONFIG, ['stragglers.events=[{fault = "stop", worker = 1, step = 4}]'])
    again = parse(config.for_workers(4).toml())
    (fault,) = Experiment.of(again, 4).faults
    assert (fault.fault, fault.worker, fault.step) == ("stop", 1, 4)
    assert np.isinf(fault.seconds)

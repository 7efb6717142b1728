"""The run folder keeps its contract: fields, valid JSON, and no run over another."""

import dataclasses
import hashlib
import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest

import gcdl
from gcdl.errors import UsageError
from gcdl.protocol.ledger import Ledger
from gcdl.protocol.measurements import StepTiming, rows_of
from gcdl.protocol.step_record import StepRecord
from gcdl.training.provenance import manifest
from gcdl.training.run_files import CONFIG, MANIFEST, STEPS, SUMMARY, TIMELINE
from gcdl.training.run_folder import RunFolder, check_unused
from gcdl.training.summary import Summary, model_sha256
from gcdl.training.totals import Totals

STEP_FIELDS = {
    "step", "seconds", "train_loss", "replies", "late", "decoding_error", "noise_gain", "uplink_bytes", "downlink_bytes",
}  # fmt: skip
SUMMARY_FIELDS = {
    "steps", "seconds", "wall_seconds", "final_train_loss", "final_test_loss", "final_test_accuracy", "uplink_bytes",
    "downlink_bytes", "late_replies", "lost_workers", "model_sha256",
}  # fmt: skip


def reply(worker, received, slept, computed, held=0.0, step=0):
    row = rows_of(1)
    row["worker"], row["received"], row["slept"], row["computed"], row["held"] = worker, received, slept, computed, held
    row["step"] = step
    return row


def timing(*replies, began=10.0, waited=None, late=()):
    waited = began + 2.0 if waited is None else waited
    rows = np.concatenate([rows_of(0), *replies])
    return StepTiming(began, began + 0.5, waited, waited + 0.25, waited + 0.5, rows, np.concatenate([rows_of(0), *late]))


def ledger(up, down, resent=0):
    """Three workers, the second of which got nothing and sent nothing."""
    by_worker = np.array([[1, 0], [0, 0], [0, 1]])
    return Ledger(by_worker * (up // 2), by_worker * (down // 2), shared=7, resent=np.array([0, resent, 0]))


def record(step=0, **changes):
    first = StepRecord(
        step=step,
        seconds=2.5,
        train_loss=0.75,
        replies=[0, 2],
        late=1,
        decoding_error=0.0,
        noise_gain=1.5,
        gradient_norm=3.0,
        timed_out=False,
        lost=[],
        disagreed=[],
        clipped=5,
        fresh=[],
        coverage=np.ones(3),
        timing=timing(reply(0, 11.0, 0.0, 0.4), reply(2, 12.0, 0.5, 0.6)),
        ledger=ledger(1000, 3000),
    )
    return dataclasses.replace(first, **changes)


def summary(**changes):
    first = Summary(
        steps=10,
        seconds=1.0,
        clock="real",
        wall_seconds=2.0,
        wait_for_all_seconds=3.0,
        final_train_loss=0.5,
        final_test_loss=0.6,
        final_test_accuracy=0.9,
        final_metrics={},
        uplink_bytes=1,
        downlink_bytes=2,
        uplink_header_bytes=1,
        downlink_header_bytes=1,
        shared_bytes=0,
        float32_uplink_bytes=32,
        control_bytes=4,
        clipped_coordinates=0,
        resent_models={},
        late_replies=5,
        timed_out_steps=0,
        foreign_messages=0,
        lost_workers=[3],
        replaced_workers=[],
        losses_left=0,
        disagreeing_workers={},
        model_sha256="ab",
        parameters=7,
        workers=8,
        masters=1,
        shard_coverage=[1.0, 0.5],
        link_share=None,
        master_share=None,
        resumed=0,
        warnings=[],
    )
    return dataclasses.replace(first, **changes)


def strict(text):
    """Parse JSON as other programs do: no NaN, no Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def lines(folder):
    return [strict(line) for line in (folder / STEPS).read_text().splitlines()]


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "run", "seed = 0\n", {"host": "here"})
    yield run
    run.close()


# --- steps ----------------------------------------------------------------------------------------------------------


def test_a_line_of_steps_jsonl_has_the_fields_of_the_contract(folder):
    folder.write_step(record(4))
    (line,) = lines(folder.path)
    assert set(line) >= STEP_FIELDS
    assert {name: line[name] for name in STEP_FIELDS} == {
        "step": 4, "seconds": 2.5, "train_loss": 0.75, "replies": [0, 2], "late": 1, "decoding_error": 0.0, "noise_gain": 1.5,
        "uplink_bytes": 1000, "downlink_bytes": 3000,
    }  # fmt: skip
    assert line["reply_seconds"] == [1.0, 2.0]  # from the step's beginning, in the order of the replies
    assert line["compute_seconds"] == [0.4, 0.6]
    assert "timing" not in line


def test_evaluation_is_on_a_line_only_where_there_was_one(folder):
    folder.write_step(record(0))
    folder.write_step(record(1, test_loss=0.5, test_accuracy=0.25))
    folder.write_step(record(2, test_loss=0.5))  # a problem without accuracy
    without, both, loss_only = lines(folder.path)
    assert not {"test_loss", "test_accuracy"} & set(without)
    assert (both["test_loss"], both["test_accuracy"]) == (0.5, 0.25)
    assert (loss_only["test_loss"], loss_only["test_accuracy"]) == (0.5, None)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_number_for_becomes_null(folder, value):
    folder.write_step(record(0, train_loss=value, noise_gain=value, test_loss=value))
    (line,) = lines(folder.path)
    assert line["train_loss"] is line["noise_gain"] is line["test_loss"] is None
    assert line["decoding_error"] == 0.0


def test_each_line_is_on_disk_as_soon_as_it_is_written(folder):
    for step in range(3):
        folder.write_step(record(step))
        assert [line["step"] for line in lines(folder.path)] == list(range(step + 1))  # not closed yet


# --- summary --------------------------------------------------------------------------------------------------------


def test_the_summary_has_the_fields_of_the_contract(folder):
    folder.write_summary(summary())
    found = strict((folder.path / SUMMARY).read_text())
    assert set(found) >= SUMMARY_FIELDS
    assert found == dataclasses.asdict(summary())


def test_a_summary_of_what_never_ends_or_diverged_is_valid_json(folder):
    folder.write_summary(summary(wait_for_all_seconds=math.inf, final_test_loss=math.nan, final_train_loss=None))
    found = strict((folder.path / SUMMARY).read_text())
    assert found["wait_for_all_seconds"] is found["final_test_loss"] is found["final_train_loss"] is None
    assert found["seconds"] == 1.0


def test_the_summary_is_written_last(folder):
    folder.write_step(record())
    assert not (folder.path / SUMMARY).exists()


# --- timeline -------------------------------------------------------------------------------------------------------


def events(folder):
    return strict((folder / TIMELINE).read_text())["traceEvents"]


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_the_timeline_is_valid_json(folder, steps):
    for step in range(steps):
        folder.write_step(record(step))
    folder.close()
    for event in events(folder.path):
        assert {"ph", "pid", "name"} <= set(event)
        assert event["ph"] in {"X", "M"}
        if event["ph"] == "X":
            assert event["dur"] >= 0.0
            assert {"ts", "tid", "args"} <= set(event)


def test_the_timeline_shows_what_the_master_and_each_used_worker_did(folder):
    replies = reply(0, 11.0, 0.0, 0.4, step=3), reply(2, 12.0, 0.5, 0.6, held=0.2, step=3)
    folder.write_step(record(3, timing=timing(*replies)))
    folder.close()
    spans = {
        (event["tid"], event["name"]): (event["ts"] / 1e6, event["dur"] / 1e6)
        for event in events(folder.path)
        if event["ph"] == "X" and event["args"]["step"] == 3
    }
    assert spans == {
        (0, "send"): (10.0, 0.5),
        (0, "wait"): (10.5, 1.5),
        (0, "decode"): (12.0, 0.25),
        (0, "step"): (12.25, 0.25),
        # What the parts leave of the time is travel, a tenth of it on the way up.
        (1, "receive"): (10.0, pytest.approx(0.54)),
        (1, "compute"): (pytest.approx(10.54), pytest.approx(0.4)),
        (1, "send"): (pytest.approx(10.94), pytest.approx(0.06)),
        (3, "receive"): (10.0, pytest.approx(0.63)),
        (3, "injected sleep"): (pytest.approx(10.63), pytest.approx(0.5)),
        (3, "compute"): (pytest.approx(11.13), pytest.approx(0.6)),
        (3, "injected sleep (sending)"): (pytest.approx(11.73), pytest.approx(0.2)),
        (3, "send"): (pytest.approx(11.93), pytest.approx(0.07)),
    }


def test_the_timeline_names_each_row_once(folder):
    for step in range(4):
        folder.write_step(record(step))
    folder.close()
    names = [(e["tid"], e["args"]["name"]) for e in events(folder.path) if e["name"] == "thread_name"]
    assert sorted(names) == [(0, "master"), (1, "worker 0"), (3, "worker 2")]


def test_the_timeline_shows_late_replies_and_who_did_not_reply(tmp_path):
    folder = RunFolder(tmp_path / "run", "", {}, workers=3)
    folder.write_step(record(0, timing=timing(reply(0, 11.0, 0.0, 0.5))))
    late = reply(1, 20.6, 8.0, 1.0)
    folder.write_step(record(1, timing=timing(reply(0, 21.0, 0.0, 0.5, step=1), began=20.0, late=[late])))
    both = reply(0, 31.0, 0.0, 0.5, step=2), reply(1, 31.5, 0.0, 1.0, step=2)
    folder.write_step(record(2, timing=timing(*both, began=30.0)))
    folder.close()
    spans = [
        (e["tid"], e["name"], round(e["ts"] / 1e6, 3), round((e["ts"] + e["dur"]) / 1e6, 3), e["args"])
        for e in events(folder.path)
        if e["ph"] == "X" and e["tid"] > 1
    ]
    assert spans == [
        (2, "receive (late)", 10.0, 11.44, {"step": 0}),
        (2, "injected sleep (late)", 11.44, 19.44, {"step": 0}),
        (2, "compute (late)", 19.44, 20.44, {"step": 0}),
        (2, "send (late)", 20.44, 20.6, {"step": 0}),
        (2, "no reply", 20.6, 30.0, {"step": 1, "to": 1}),
        (2, "receive", 30.0, 30.45, {"step": 2}),
        (2, "compute", 30.45, 31.45, {"step": 2}),
        (2, "send", 31.45, 31.5, {"step": 2}),
        (3, "no reply", 10.0, 32.5, {"step": 0, "to": 2}),
    ]


# --- the folder -----------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_the_config_and_the_manifest(tmp_path):
    path = tmp_path / "deep" / "run"
    RunFolder(path, "seed = 3\n", {"versions": {"gcdl": "1"}}).close()
    assert (path / CONFIG).read_text() == "seed = 3\n"
    assert strict((path / MANIFEST).read_text()) == {"versions": {"gcdl": "1"}}


def test_a_manifest_names_the_commit_of_the_source():
    root = Path(gcdl.__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("gcdl is installed: there is no commit to name")
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert str(manifest(3, None)["commit"]).removesuffix("-dirty") == head.strip()


def test_the_files_have_the_names_of_the_contract():
    assert (CONFIG, MANIFEST, STEPS, SUMMARY, TIMELINE) == (
        "config.toml", "manifest.json", "steps.jsonl", "summary.json", "timeline.json",
    )  # fmt: skip


def test_closing_twice_is_closing_once(folder):
    folder.write_step(record())
    folder.close()
    before = (folder.path / TIMELINE).read_text()
    folder.close()
    assert (folder.path / TIMELINE).read_text() == before


@pytest.mark.parametrize("name", [CONFIG, STEPS, SUMMARY])
def test_a_folder_that_holds_a_run_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text("precious")
    for attempt in (lambda: check_unused(tmp_path), lambda: RunFolder(tmp_path, "", {})):
        with pytest.raises(UsageError, match=f"there is a run already \\({name}\\)") as caught:
            attempt()
        assert str(tmp_path) in str(caught.value)
        assert caught.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_a_finished_run_is_not_overwritten(folder):
    folder.close()
    with pytest.raises(UsageError, match="there is a run already"):
        RunFolder(folder.path, "", {})


def test_a_folder_with_other_files_may_be_used(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    check_unused(tmp_path)
    check_unused(tmp_path / "new")
    RunFolder(tmp_path, "", {}).close()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        RunFolder(tmp_path / "file", "", {})
    with pytest.raises(UsageError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "below", "", {})


# --- totals ---------------------------------------------------------------------------------------------------------


def test_totals_are_sums_over_the_records():
    totals = Totals()
    totals.add(record(0), np.zeros(4))
    totals.add(record(1, replies=[1], late=4, timed_out=True, lost=[3], ledger=ledger(2, 4, 1)), np.zeros(4))
    assert (totals.steps, totals.seconds, totals.replies, totals.late, totals.timed_out) == (2, 5.0, 3, 5, 1)
    assert (totals.uplink_bytes, totals.downlink_bytes, totals.lost) == (1002, 3004, [3])
    assert (totals.uplink_header_bytes, totals.downlink_header_bytes, totals.shared_bytes) == (501, 1502, 14)
    assert (totals.clipped, totals.resent) == (10, {"1": 1})


def extra(made, delays):
    totals = Totals()
    totals.add(made, np.array(delays))
    return totals.extra_seconds


def test_waiting_for_all_costs_nothing_more_where_all_were_used():
    made = record(replies=[0, 1], timing=timing(reply(0, 11.0, 0.0, 1.0), reply(1, 12.0, 0.0, 1.0)))
    assert extra(made, [0.0, 99.0]) == 0.0


def test_waiting_for_all_takes_the_longest_missing_delay_and_a_typical_replys_other_seconds():
    # Replies took 1 and 2 seconds, half a second of which was sleep: 1.25 without. The wait had lasted 2.
    replies = (reply(0, 11.0, 0.0, 1.0), reply(2, 12.0, 0.5, 1.5))
    made = record(replies=[0, 2], timing=timing(*replies))
    assert extra(made, [0.0, 5.0, 0.5, 3.0]) == pytest.approx(5.0 + 1.25 - 2.0)
    assert extra(made, [100.0, 5.0, 100.0, 3.0]) == pytest.approx(5.0 + 1.25 - 2.0)  # the delays of those used do not count


def test_waiting_for_a_worker_that_never_answers_takes_for_ever():
    assert extra(record(), [0.0, math.inf, 0.0]) == math.inf
    assert extra(record(), [math.inf, 0.0, math.inf]) < math.inf


def test_waiting_for_all_does_not_wait_for_the_lost():
    assert extra(record(lost=[1]), [0.0, math.inf, 0.0]) == 0.0
    assert extra(record(lost=[1]), [0.0, math.inf, 0.0, 7.0]) == pytest.approx(7.0 + 1.25 - 2.0)


def test_waiting_for_all_is_never_quicker():
    assert extra(record(timing=timing(reply(0, 10.1, 0.0, 0.1), waited=50.0)), [0.0, 0.2, 0.0]) == 0.0


def test_extra_seconds_add_up_over_steps():
    totals = Totals()
    for step in range(3):
        totals.add(record(step), np.array([0.0, 5.0, 0.0]))
    assert totals.extra_seconds == pytest.approx(3 * (5.0 + 1.25 - 2.0))


# --- the model's fingerprint ----------------------------------------------------------------------------------------


def test_the_fingerprint_is_the_sha256_of_little_endian_float32():
    parameters = np.array([1.0, -2.5, 0.0], dtype=np.float32)
    assert model_sha256(parameters) == hashlib.sha256(parameters.astype("<f4").tobytes()).hexdigest()
    assert model_sha256(np.repeat(parameters, 2)[::2]) == model_sha256(parameters)  # wherever the numbers lie
    other = parameters.copy()
    other[2] = -0.0
    assert model_sha256(other) != model_sha256(parameters)  # to the bit


def test_coverage_is_the_mean_weight_of_each_shard_over_the_steps():
    totals = Totals()
    for weights in ([1.0, 0.0, 2.0], [1.0, 1.0, 1.0]):
        totals.add(record(coverage=np.array(weights)), np.zeros(3))
    np.testing.assert_array_equal(totals.mean_coverage(), [1.0, 0.5, 1.5])

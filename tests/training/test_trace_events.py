"""Slices of a row of the timeline nest or touch, which Perfetto demands, whatever the times are."""

from __future__ import annotations

import io
import itertools
import json
from collections import defaultdict
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gcdl.config import parse
from gcdl.protocol.measurements import StepTiming, rows_of
from gcdl.training.roles.simulation import simulate
from gcdl.training.starting_point import StartingPoint
from gcdl.training.trace_events import Timeline
from gcdl.training.watcher import Watcher

RUN = """
workers = 6
steps = 60
[problem]
kind = "linear_regression"
features = 5
samples = 4
[code]
kind = "fractional_repetition"
[stragglers]
kind = "shifted_exponential"
shift = 0.0012345678
seconds = 0.01357913
[run]
seconds_per_shard = 0.0001234567
"""


def slices(text: str) -> dict[int, list[tuple[Any, Any, str]]]:
    """By row: (start, end, name), in the file's order."""
    rows = defaultdict(list)
    for event in json.loads(text)["traceEvents"]:
        if event["ph"] == "X":
            assert type(event["ts"]) is type(event["dur"]) is int  # any reader adds these up exactly
            assert event["dur"] > 0
            rows[event["tid"]].append((event["ts"], event["ts"] + event["dur"], event["name"]))
    return rows


def check(rows: dict[int, list[tuple[Any, Any, str]]]) -> None:
    for row in rows.values():
        row.sort()
        for (_, end, name), (start, _, after) in itertools.pairwise(row):
            assert end <= start, (name, after)


def test_the_slices_of_a_run_do_not_overlap(tmp_path):
    simulate(StartingPoint(parse(RUN), tmp_path / "run"), Watcher())
    rows = slices((tmp_path / "run" / "timeline.json").read_text())
    check(rows)
    names = {name for row in rows.values() for *_, name in row}
    assert names >= {"wait", "injected sleep", "compute", "no reply"}
    assert len(rows) == 7


seconds = st.floats(0.0, 2.0)


@given(st.floats(0.0, 1e5), st.lists(st.tuples(seconds, seconds, seconds, seconds, seconds, seconds), min_size=1, max_size=8))
def test_whatever_the_times_are_neighbours_touch(began, steps):
    file = io.StringIO()
    file.close = lambda: None  # keep what was written
    timeline = Timeline(file, 1)
    now = began
    for step, (sent, waited, decoded, ended, slept, computed) in enumerate(steps):
        edges = np.cumsum([now, sent, waited, decoded, ended])
        replies = rows_of(1)
        replies["step"], replies["received"], replies["slept"], replies["computed"] = step, edges[2], slept, computed
        late = replies[:0]
        if step % 3 == 2:  # the reply to the step before comes only now, and is dropped
            replies, late = replies[:0], replies.copy()
            late["step"] -= 1
        timeline.add(step, StepTiming(*edges.tolist(), replies=replies, late=late))
        now = float(edges[-1])
    timeline.close()
    rows = slices(file.getvalue())
    check(rows)
    for (_, end, _), (start, _, _) in zip(rows[0][:-1], rows[0][1:], strict=True):
        assert start == end  # the master's steps follow each other without a gap


def test_each_master_has_a_row_and_workers_have_the_number_of_their_rank(tmp_path):
    config = parse(RUN, ["run.masters=3", "problem.features=300000", "steps=4", "problem.test_samples=1"])
    summary = simulate(StartingPoint(config, tmp_path / "run"), Watcher())
    text = (tmp_path / "run" / "timeline.json").read_text()
    names = {
        event["tid"]: event["args"]["name"]
        for event in json.loads(text)["traceEvents"]
        if "tid" in event and event["ph"] == "M"
    }
    assert [names[row] for row in range(5)] == ["master", "slice master 1", "slice master 2", "worker 0", "worker 1"]
    rows = slices(text)
    check(rows)
    assert [name for _, _, name in sorted(rows[2])] == ["wait"] * 4  # its work took no virtual seconds
    assert summary.masters == 3

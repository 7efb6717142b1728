"""A run's timeline for the report: the slices of ``timeline.json``, packed as whole numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gcdl.training.run_files import TIMELINE

_SLICES = 200_000
"""What a page holds: about 3 MB. Of a longer run it has the first steps."""


def timeline_data(folder: Path) -> dict[str, Any] | None:
    """Return a run's timeline, JSON-ready; None: there is none, or it can't be read.

    ::

        {"rows": ["master", "worker 0", ...], "kinds": ["send", "wait", ...], "steps": steps shown, "whole": all of them?,
         "slices": for each row [microseconds since the slice before ended, its microseconds, its kind, its step, ...]}

    A killed run leaves a file without its end; what is there is shown.
    """
    try:
        return _packed(_events(folder / TIMELINE))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):  # an event that no run writes
        return None


def _packed(events: list[dict[str, Any]]) -> dict[str, Any] | None:
    names = {event["tid"]: event["args"]["name"] for event in events if event.get("name") == "thread_name"}
    slices = [event for event in events if event.get("ph") == "X" and event["tid"] in names]
    if not slices:
        return None
    until = _first_step_left_out(slices)
    kinds = list(dict.fromkeys(event["name"] for event in slices))
    packed = []
    for row in sorted(names):
        mine = [one for one in slices if one["tid"] == row and _step(one) < until]
        flat, end = [], 0
        for event in sorted(mine, key=lambda one: float(one["ts"])):
            start, length = round(event["ts"]), round(event["dur"])
            flat += [start - end, length, kinds.index(event["name"]), _step(event)]
            end = start + length
        packed.append(flat)
    return {
        "rows": [names[row] for row in sorted(names)], "kinds": kinds, "slices": packed,
        "steps": min(until, 1 + max(map(_step, slices))), "whole": until > max(map(_step, slices)),
    }  # fmt: skip


def _events(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8").rstrip()
        if not text.endswith("]}"):
            text = text[: text.rindex("}") + 1] + "]}"  # up to the last whole line
        found: list[dict[str, Any]] = json.loads(text)["traceEvents"]
    except (OSError, ValueError, KeyError):
        return []
    return found


def _step(event: dict[str, Any]) -> int:
    return int(event["args"].get("step", 0))


def _first_step_left_out(slices: list[dict[str, Any]]) -> int:
    """Return the step from which on the page has no room."""
    steps = sorted(map(_step, slices))
    return steps[_SLICES] if len(steps) > _SLICES else steps[-1] + 1

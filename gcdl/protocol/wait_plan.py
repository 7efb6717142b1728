"""The best plan for a step: until when to wait, or for how much progress, given scenarios of the replies to come.

A plan (T, x) waits until time T, or until the step's progress has reached x, whichever is first. It gains the progress made
meanwhile, less the rate r times the seconds that it takes; r is what a second is worth in other steps. The mean gain over all
scenarios decides. Stopping at a level is what ``decodable`` does (x = 1) and, where replies are alike, ``first_replies``;
stopping at a time is a ``deadline``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcdl.types import Matrix

_TIMES = 64
_LEVELS = 8
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Plan:
    """Wait until ``until``, in seconds since the step began, or until its progress is ``level``."""

    until: float
    level: float


def best_plan(times: Matrix, values: Matrix, now: float, rate: float) -> Plan | None:
    """Return the plan with the largest mean gain; None: every plan loses, so that it is best to stop now.

    Parameters
    ----------
    times : (R, m) when the next m replies come in each of R scenarios, ascending, in seconds since the step began; inf: never.
    values : (R, m + 1) the step's progress after none of them, one, ..., all.
    now : seconds since the step began.
    rate : r, progress per second.
    """
    horizons = _thinned(np.unique(times[np.isfinite(times)]), _TIMES)
    begins = float(values[0, 0])
    ends = np.take_along_axis(values, np.isfinite(times).sum(axis=1)[:, None], axis=1)
    levels = _thinned(np.unique(ends[ends > begins + _ROUNDING]), _LEVELS)
    if not horizons.size or not levels.size:
        return None
    at_horizon = np.take_along_axis(values, (times[:, None, :] <= horizons[:, None]).sum(axis=2), axis=1)
    best, plan = 0.0, None
    for level in levels:
        reached = values >= level - _ROUNDING
        place = reached.argmax(axis=1)[:, None]
        stop = np.take_along_axis(times, np.maximum(place - 1, 0), axis=1)
        stop = np.where(reached.any(axis=1)[:, None], stop, np.inf)
        progress = np.where(stop <= horizons, np.take_along_axis(values, place, axis=1), at_horizon) - begins
        gain = (progress - rate * (np.minimum(stop, horizons) - now)).mean(axis=0)
        if gain.max() > best:
            best, plan = float(gain.max()), Plan(float(horizons[gain.argmax()]), float(level))
    return plan


def _thinned(ascending: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of these numbers, evenly spread, the first and the last among them."""
    if ascending.size <= most:
        return ascending
    return np.asarray(ascending[np.linspace(0, ascending.size - 1, most).astype(np.int64)])

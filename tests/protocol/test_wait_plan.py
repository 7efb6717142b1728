"""The best plan is the best one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdl.protocol.wait_plan import best_plan


def gain(times, values, now, rate, until, level):
    """Play a plan through, scenario by scenario."""
    gains = []
    for row, worth in zip(times, values, strict=True):
        at, clock = worth[0], now
        for time, value in zip(row, worth[1:], strict=True):
            if at >= level - 1e-9 or time > until:
                break
            at, clock = value, time
        if at < level - 1e-9:
            clock = until  # it waits for what does not come
        gains.append(at - worth[0] - rate * (clock - now))
    return np.mean(gains)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 3.0))
def test_no_plan_is_better(seed, rate):
    rng = np.random.default_rng(seed)
    now, m = 1.0, 3
    times = np.sort(now + rng.exponential(1.0, (5, m)), axis=1)
    times[rng.random((5, m)) < 0.2] = np.inf
    times.sort(axis=1)
    values = np.concatenate([np.full((5, 1), 0.2), 0.2 + np.sort(rng.integers(0, 5, (5, m)) / 5, axis=1)], axis=1)
    ends = {row[int(np.isfinite(t).sum())] for row, t in zip(values, times, strict=True)}
    all_plans = [
        gain(times, values, now, rate, until, level)
        for until in np.unique(times[np.isfinite(times)])
        for level in ends
        if level > 0.2
    ]
    plan = best_plan(times, values, now, rate)
    if plan is None:
        assert max(all_plans, default=0.0) <= 1e-12
    else:
        assert gain(times, values, now, rate, plan.until, plan.level) == pytest.approx(max(all_plans))


def test_one_stops_where_seconds_are_dear_and_waits_for_all_where_they_are_cheap():
    times = np.array([[2.0, 3.0], [2.5, 4.0]])
    values = np.array([[0.5, 0.7, 1.0], [0.5, 0.7, 1.0]])
    assert best_plan(times, values, 1.0, 10.0) is None
    plan = best_plan(times, values, 1.0, 0.01)
    assert (plan.until, plan.level) == (4.0, 1.0)


def test_what_adds_nothing_is_not_waited_for():
    assert best_plan(np.array([[2.0]]), np.array([[1.0, 1.0]]), 1.0, 1e-9) is None
    assert best_plan(np.array([[np.inf]]), np.array([[0.5, 1.0]]), 1.0, 1e-9) is None

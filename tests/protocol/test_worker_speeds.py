"""How fast workers are, by what a run measured."""

import numpy as np
import pytest

from gcdl.protocol.measurements import StepTiming, rows_of
from gcdl.protocol.worker_speeds import STEPS, WorkerSpeeds

N = 5
LOADS = np.array([4, 4, 4, 2, 4])
EVERYONE = np.ones(N, dtype=bool)


def step(factors, *, waited=np.inf, slept=0.0, scale=1.0):
    """Return what a step measured in which shards take these seconds."""
    seconds = scale * np.asarray(factors) * LOADS
    came = np.flatnonzero(seconds + slept + 0.5 <= waited)
    rows = rows_of(len(came))
    rows["worker"], rows["slept"] = came, slept
    rows["computed"] = (scale * LOADS)[came]
    rows["held"] = seconds[came] - rows["computed"]
    rows["received"] = seconds[came] + slept + 0.5 + 100.0
    end = 100.0 + min(waited, (seconds + slept + 0.5).max())
    return StepTiming(100.0, 100.0, end, end, end, rows)


def seen(*steps, threshold=1.5):
    speeds = WorkerSpeeds(N, threshold)
    for one in steps:
        speeds.observe(one, LOADS, EVERYONE)
    return speeds


SLOW = [1.0, 1.0, 1.0, 2.4, 1.0]
EVEN = [1.0] * N


def test_a_slow_worker_is_found_whatever_it_holds_and_whatever_a_step_costs():
    speeds = seen(*(step(SLOW, scale=1.0 + i % 3) for i in range(40)))
    assert speeds.factor(3) == pytest.approx(2.4)
    assert speeds.slow_for.tolist() == [0, 0, 0, 40, 0]
    assert speeds.factor(0) == pytest.approx(1.0)


def test_sleep_is_no_slowness():
    assert seen(*(step(EVEN, slept=50.0) for _ in range(40))).slow_for.max() == 0


@pytest.mark.parametrize("length", [1, 4])
def test_a_short_burst_leaves_no_trace(length):
    assert seen(*[step(EVEN)] * 20, *[step(SLOW)] * length, *[step(EVEN)] * 8).slow_for.max() == 0


def test_a_burst_of_thirty_steps_is_not_yet_thirty_steps_of_slowness_after_it_ends():
    speeds = seen(*[step(EVEN)] * 40, *[step(SLOW)] * 25, *[step(EVEN)] * 6)
    assert speeds.slow_for[3] == 0


def test_who_recovers_is_fast_again():
    speeds = seen(*[step(SLOW)] * 40, *[step(EVEN)] * 40)
    assert speeds.slow_for[3] == 0
    assert speeds.fast_for[3] >= STEPS
    assert speeds.factor(3) == pytest.approx(1.0)


def test_superseded_steps_bound_the_speed_from_below():
    # Worker 3 takes 3 * 2 + 0.5 s; the master waits for 5.5.
    speeds = seen(*(step([1.0, 1.0, 1.0, 3.0, 1.0], waited=5.5) for _ in range(40)))
    # It had 5 s for its two shards, and perhaps for the rest of one before.
    assert 5.0 / 3.0 <= speeds.factor(3) <= 5.0 / 2.0
    assert speeds.slow_for[3] >= 39
    assert speeds.fast_for[3] == 0


def test_some_replies_among_the_superseded_steps_tell_the_median():
    factors = [3.0, 3.1, 2.9, 9.0, 9.0]
    speeds = seen(*(step([1.0, 1.0, 1.0, factors[i % 5], 1.0], waited=7.0) for i in range(60)))
    assert 2.9 <= speeds.factor(3) <= 3.2


def test_who_is_not_expected_is_not_slow():
    speeds = WorkerSpeeds(N, 1.5)
    gone = EVERYONE.copy()
    gone[3] = False
    for _ in range(40):
        speeds.observe(step([1.0, 1.0, 1.0, np.inf, 1.0], waited=5.0), LOADS, gone)
    assert speeds.slow_for[3] == 0

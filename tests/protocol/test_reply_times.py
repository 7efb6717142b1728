"""The distribution of reply times, of which some were not waited for."""

import numpy as np
import pytest

from gcdl.protocol.reply_times import ReplyTimes

LEVELS = (np.arange(200)[:, None] + 0.5) / 200
EVERYONE = np.ones(4, dtype=bool)


def observed(steps, waited=np.inf, n=4):
    """Return what is learnt of (steps, n) seconds when the master waits so long in each step."""
    times = ReplyTimes(n)
    for row in steps:
        limit = min(waited, row.max()) if np.isfinite(row).any() else waited
        times.observe(np.where(row <= limit, row, np.inf), limit, EVERYONE[:n])
    return times


def asked(times, worker, now, levels=LEVELS):
    return times.arrivals(np.array([worker]), now, levels)[:, 0]


def test_without_censoring_the_quantiles_are_those_of_the_times_seen():
    seconds = np.random.default_rng(0).exponential(1.0, (64, 4))
    found = asked(observed(seconds), 2, 0.0)
    np.testing.assert_allclose(np.quantile(found, [0.25, 0.5, 0.75]), np.quantile(seconds, [0.25, 0.5, 0.75]), rtol=0.15)


def test_replies_to_come_are_later_than_now():
    times = observed(np.random.default_rng(1).exponential(1.0, (64, 4)))
    for now in (0.1, 0.5, 2.0):
        assert asked(times, 0, now).min() >= now


def test_censored_times_do_not_pull_the_distribution_down():
    # Exponential times of mean 1, of which the master sees the first 0.8 s: the median, 0.69, must not move.
    seconds = np.random.default_rng(2).exponential(1.0, (64, 4))
    found = asked(observed(seconds, waited=0.8), 1, 0.0)
    assert np.median(found) == pytest.approx(np.log(2.0), abs=0.12)
    # What lies beyond is not known; nothing is made up.
    assert np.isinf(found).mean() == pytest.approx(np.exp(-0.8), abs=0.08)


def test_a_worker_that_never_replied_is_not_expected_and_the_others_are():
    seconds = np.full((40, 4), 0.1)
    seconds[:, 3] = np.inf
    times = observed(seconds, waited=0.1)
    assert np.isinf(asked(times, 3, 0.05)).mean() > 0.9
    assert np.isfinite(asked(times, 0, 0.05)).mean() > 0.95


def test_a_burst_is_expected_to_last_and_the_next_good_step_ends_it():
    # Worker 0 is late for ten steps in a row, now and then.
    seconds = np.full((60, 4), 0.1)
    late = (np.arange(60) // 10) % 2 == 1
    seconds[late, 0] = np.inf
    after_a_burst, in_a_burst = observed(seconds[:41], waited=0.1), observed(seconds[:55], waited=0.1)
    assert np.isinf(asked(in_a_burst, 0, 0.0)).mean() > 0.7
    assert np.isinf(asked(after_a_burst, 0, 0.0)).mean() < 0.3


def test_old_steps_are_forgotten():
    seconds = np.full((200, 4), 0.1)
    seconds[100:] = 0.3
    assert asked(observed(seconds), 0, 0.0).min() == pytest.approx(0.3, rel=0.05)


def test_nothing_is_expected_of_a_run_that_has_seen_nothing():
    assert np.isinf(asked(ReplyTimes(4), 0, 0.0)).all()


def test_thousands_of_workers_share_their_times():
    n = 2000
    times = ReplyTimes(n)
    everyone = np.ones(n, dtype=bool)
    for step in range(10):
        seconds = np.random.default_rng(step).exponential(1.0, n)
        times.observe(seconds, float(seconds.max()), everyone)
    found = times.arrivals(np.arange(3), 0.0, np.broadcast_to(LEVELS, (200, 3)))
    assert np.median(found, axis=0) == pytest.approx(np.log(2.0), abs=0.05)

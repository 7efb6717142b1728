"""Codes for workers of unequal speed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdl.codes.unequal import loads_for, seconds_of, unequal_assignment, unequal_repetition
from gcdl.errors import ParameterError

PACES = st.lists(st.floats(0.1, 5.0), min_size=1, max_size=4)


def compositions(work, m, most):
    return (loads for loads in itertools.product(range(1, most + 1), repeat=m) if sum(loads) == work)


@settings(max_examples=50, deadline=None)
@given(PACES, st.integers(0, 6), st.integers(1, 6))
def test_no_other_loads_are_done_sooner(paces, more, most):
    seconds, work = np.array(paces), len(paces) + more
    if work > len(paces) * most:
        with pytest.raises(ParameterError, match="loads: "):
            loads_for(seconds, work, most)
        return
    found = loads_for(seconds, work, most)
    assert found.sum() == work
    assert found.min() >= 1
    assert found.max() <= most
    best = min(max(np.array(loads) * seconds) for loads in compositions(work, len(paces), most))
    assert max(found * seconds) == pytest.approx(best)


@pytest.mark.parametrize("s", [0, 1, 2])
@pytest.mark.parametrize("slow", [1.0, 3.0, 40.0])
def test_any_s_workers_may_be_missing_with_nothing_lost(s, slow):
    seconds = np.array([1.0, slow, 1.0, 1.0, 2.0, 1.0, 1.0])
    code = unequal_repetition(seconds, 21, s)
    assert code.stragglers == s
    for missing in itertools.combinations(range(7), s):
        arrived = np.ones(7, dtype=bool)
        arrived[list(missing)] = False
        assert code.decoding_error(code.decoding_vector(arrived)) < 1e-9


@pytest.mark.parametrize("s", [0, 1])
def test_a_worker_three_times_slower_costs_a_seventh_of_the_ideal_at_most(s):
    seconds = np.ones(8)
    seconds[3] = 3.0
    code = unequal_repetition(seconds, 64, s)
    ideal = 64 * (s + 1) / (1.0 / seconds).sum()
    assert seconds_of(code.B, seconds) <= 1.15 * ideal
    equal = np.ones(8)
    assert seconds_of(unequal_repetition(equal, 64, s).B, seconds) > 2.5 * ideal


def test_equal_workers_get_equal_loads():
    assert set(np.count_nonzero(unequal_repetition(np.ones(6), 12, 1).B, axis=1)) == {4}


def test_fewer_shards_than_workers_are_refused():
    with pytest.raises(ParameterError, match=r"loads: 3 shards for 5 workers"):
        unequal_repetition(np.ones(5), 3, 0)


@pytest.mark.parametrize("replication", [1, 2, 4])
def test_an_assignment_has_its_loads_and_holders(replication):
    seconds = np.array([1.0, 3.0, 1.0, 1.5, 1.0])
    support = unequal_assignment(seconds, 20, replication, np.random.default_rng(0))
    assert (support.sum(axis=0) == replication).all()
    np.testing.assert_array_equal(support.sum(axis=1), loads_for(seconds, 20 * replication, 20))
    assert (support == unequal_assignment(seconds, 20, replication, np.random.default_rng(0))).all()

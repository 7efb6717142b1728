"""When the master stops waiting."""

import itertools
import math

import numpy as np
import pytest

from gcdl.codes import GradientCode, add_up, cyclic_repetition, fractional_repetition, uncoded
from gcdl.errors import ParameterError
from gcdl.protocol.adaptive_wait import Adaptive
from gcdl.protocol.wait_rules import WAIT_RULES, Deadline, Decodable, FirstReplies

N = 6
FR = fractional_repetition(N, N, stragglers=1)  # groups {0, 1}, {2, 3}, {4, 5}


def masks(n=N):
    return [np.array(bits) for bits in itertools.product([False, True], repeat=n)]


@pytest.fixture(
    params=[FirstReplies(FR), FirstReplies(FR, count=2), Decodable(FR), Deadline(seconds=0.5), Adaptive(FR)],
    ids=lambda rule: type(rule).__name__,
)
def rule(request):
    return request.param


# --- every rule -----------------------------------------------------------------------------------------------------


def test_the_table_has_the_rules_of_the_design():
    rules = {"first_replies": FirstReplies, "decodable": Decodable, "deadline": Deadline, "adaptive": Adaptive}
    assert rules.items() <= WAIT_RULES.items()


def test_everyone_is_enough_and_nobody_is_not(rule):
    assert rule.enough(np.ones(N, dtype=bool))
    assert not rule.enough(np.zeros(N, dtype=bool))
    assert rule.feasible(np.ones(N, dtype=bool))
    assert not rule.feasible(np.zeros(N, dtype=bool))


def test_one_reply_more_is_never_less(rule):
    for arrived in masks():
        for worker in np.flatnonzero(~arrived):
            more = arrived.copy()
            more[worker] = True
            assert rule.enough(more) >= rule.enough(arrived)
            assert rule.feasible(more) >= rule.feasible(arrived)


def test_what_is_enough_is_feasible(rule):
    assert all(rule.feasible(arrived) for arrived in masks() if rule.enough(arrived))


def test_asking_does_not_change_the_masks_and_answers_in_bools(rule):
    for arrived in masks():
        before = arrived.copy()
        assert type(rule.enough(arrived)) is bool
        assert type(rule.feasible(arrived)) is bool
        np.testing.assert_array_equal(arrived, before)


def test_every_rule_has_a_timeout_no_shorter_than_its_patience_unless_it_has_none(rule):
    assert rule.timeout == 60.0
    assert rule.patience <= rule.timeout or rule.patience == math.inf


# --- first replies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, N + 1))
def test_first_replies_are_enough_from_the_count_on(count):
    rule = FirstReplies(FR, count=count, timeout=3.0)
    assert rule.timeout == 3.0
    for arrived in masks():
        assert rule.enough(arrived) == (arrived.sum() >= count)
        assert rule.feasible(arrived) == (arrived.sum() >= count)


@pytest.mark.parametrize("s", [0, 1, 3])
def test_the_count_is_n_minus_s_when_left_out(s):
    code = cyclic_repetition(5, 5, np.random.default_rng(0), stragglers=s)
    assert FirstReplies(code).count == 5 - s


def test_more_replies_than_workers_are_refused():
    assert FirstReplies(FR, count=6).count == 6
    with pytest.raises(ParameterError, match=r"^count: cannot wait for 7 of 6 workers"):
        FirstReplies(FR, count=7)


# --- decodable ------------------------------------------------------------------------------------------------------


def test_decodable_is_enough_exactly_when_every_group_has_answered():
    rule = Decodable(FR)
    for arrived in masks():
        every_group = all(arrived[group : group + 2].any() for group in (0, 2, 4))
        assert rule.enough(arrived) == rule.feasible(arrived) == every_group


def test_the_tolerance_is_an_error_per_shard():
    # k = 16 shards of one worker each: without r workers' shards the error is sqrt(r).
    code = uncoded(16, 16)
    arrived = np.ones(16, dtype=bool)
    arrived[:4] = False  # error 2 = 0.5 * sqrt(16)
    assert Decodable(code, tolerance=0.501).enough(arrived)
    assert not Decodable(code, tolerance=0.499).enough(arrived)
    assert not Decodable(code, tolerance=0.0).enough(arrived)


def test_a_code_that_never_decodes_is_feasible_as_long_as_someone_lives():
    never = GradientCode(np.full((3, 3), 0.2), decoder=add_up)
    rule = Decodable(never)
    everyone = np.ones(3, dtype=bool)
    assert not rule.enough(everyone)
    assert rule.feasible(everyone)
    assert rule.feasible(np.array([False, True, False]))
    assert not rule.feasible(np.zeros(3, dtype=bool))


# --- deadline -------------------------------------------------------------------------------------------------------


def test_a_deadline_waits_for_all_until_it_has_passed_and_then_for_one():
    rule = Deadline(seconds=0.25, timeout=2.0)
    assert (rule.patience, rule.timeout) == (0.25, 2.0)
    for arrived in masks():
        assert rule.enough(arrived) == arrived.all()
        assert rule.feasible(arrived) == arrived.any()


def test_a_deadline_lies_before_the_timeout():
    assert Deadline(seconds=2.0, timeout=2.0).patience == 2.0
    with pytest.raises(ParameterError, match=r"^seconds: the deadline, 3.0 s, must be at most the timeout, 2.0 s"):
        Deadline(seconds=3.0, timeout=2.0)


@pytest.mark.parametrize("rule", [FirstReplies(FR), Decodable(FR)], ids=["first_replies", "decodable"])
def test_only_a_deadline_loses_patience(rule):
    assert rule.patience == math.inf


def test_losses_left_is_how_many_may_go_whoever_they_are():
    code = fractional_repetition(6, 6, stragglers=1)
    everyone = np.ones(6, dtype=bool)
    one_gone = np.array([False, True, True, True, True, True])
    for rule in (FirstReplies(code), Decodable(code)):
        assert (rule.losses_left(everyone), rule.losses_left(one_gone)) == (1, 0)
    assert FirstReplies(code, count=2).losses_left(one_gone) == 3
    assert Deadline(seconds=1.0).losses_left(one_gone) == 4
    assert Decodable(fractional_repetition(6, 6, stragglers=2)).losses_left(one_gone) == 1


def test_an_adaptive_rule_needs_a_worker_of_each_shard():
    rule = Adaptive(fractional_repetition(6, 6, stragglers=2))  # groups {0, 1, 2}, {3, 4, 5}
    alive = np.array([True, False, True, False, False, True])
    assert rule.feasible(alive)
    assert rule.losses_left(alive) == 0
    assert rule.losses_left(np.ones(6, dtype=bool)) == 2
    alive[5] = False
    assert not rule.feasible(alive)

"""Every delay model obeys the same laws."""

import inspect
import math

import numpy as np
import pytest

from gcdl.errors import ParameterError
from gcdl.stragglers import STRAGGLERS, BernoulliDelays, FixedDelays, NoDelays, delays_at

N = 6
TABLE = [
    ("none", {}),
    ("fixed", {"workers": (3,)}),
    ("fixed", {"workers": (5, 0), "seconds": math.inf}),
    ("fixed", {"workers": (), "seconds": 2.0}),
    ("bernoulli", {"p": 0.3}),
    ("bernoulli", {"p": 0.5, "seconds": math.inf}),
    ("bernoulli", {"p": 1.0, "seconds": 0.25}),
    ("bernoulli", {"p": 0.0}),
]


@pytest.fixture(params=TABLE, ids=str)
def model(request):
    kind, params = request.param
    plugin = STRAGGLERS[kind]
    n = {"n": N} if "n" in inspect.signature(plugin).parameters else {}
    return plugin(**n, **params)


def test_the_table_names_every_model():
    assert {kind for kind, _ in TABLE} == set(STRAGGLERS)


def test_delays_are_one_number_of_seconds_for_each_worker(model):
    for step in range(20):
        delays = delays_at(model, N, 0, step)
        assert delays.shape == (N,)
        assert delays.dtype == np.float64
        assert (delays >= 0.0).all()  # and so no NaN


def test_delays_depend_on_seed_and_step_only(model):
    in_order = [delays_at(model, N, 3, step) for step in range(30)]
    backwards = [delays_at(model, N, 3, step) for step in reversed(range(30))][::-1]
    np.testing.assert_array_equal(in_order, backwards)


def test_delays_leave_numpys_global_generator_alone(model):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    delays_at(model, N, 0, 0)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_no_delay_is_zero_for_everyone():
    assert not delays_at(NoDelays(), N, 0, 0).any()


def test_fixed_delays_the_named_workers_in_every_step_and_no_others():
    model = FixedDelays(N, workers=(4, 1), seconds=1.5)
    for step in range(5):
        assert delays_at(model, N, 0, step).tolist() == [0.0, 1.5, 0.0, 0.0, 1.5, 0.0]


def test_fixed_for_ever_means_no_reply():
    assert delays_at(FixedDelays(3, workers=(1,), seconds=math.inf), 3, 0, 0).tolist() == [0.0, math.inf, 0.0]


@pytest.mark.parametrize("seconds", [0.5, math.inf])
def test_bernoulli_delays_are_nothing_or_the_seconds(seconds):
    drawn = np.concatenate([delays_at(BernoulliDelays(p=0.5, seconds=seconds), N, 0, step) for step in range(50)])
    assert set(drawn) == {0.0, seconds}


@pytest.mark.parametrize("p", [0.0, 0.2, 0.7, 1.0])
def test_bernoulli_delays_each_worker_with_probability_p(p):
    steps = 3000
    late = np.array([delays_at(BernoulliDelays(p=p), N, 0, step) > 0 for step in range(steps)])
    assert (np.abs(late.mean(axis=0) - p) <= 4.0 * math.sqrt(p * (1 - p) / steps)).all()


def test_bernoulli_draws_are_independent_between_workers_and_steps():
    steps = 4000
    late = np.array([delays_at(BernoulliDelays(p=0.5), N, 0, step) > 0 for step in range(steps)], dtype=float)
    within = np.corrcoef(late.T) - np.eye(N)
    between = np.corrcoef(late[:-1].ravel(), late[1:].ravel())[0, 1]
    assert np.abs(within).max() <= 4.0 / math.sqrt(steps)
    assert abs(between) <= 4.0 / math.sqrt(steps * N)


def test_other_seeds_and_other_steps_draw_other_delays():
    model = BernoulliDelays(p=0.5)
    drawn = [tuple(delays_at(model, 64, seed, step)) for seed in range(3) for step in range(3)]
    assert len(set(drawn)) == len(drawn)


def test_the_draw_is_joint_so_a_models_strength_does_not_move_the_others():
    # p decides who is late among the same uniform numbers: whoever is late at p = 0.2 is late at p = 0.6.
    for step in range(50):
        rarely = delays_at(BernoulliDelays(p=0.2), 20, 0, step) > 0
        often = delays_at(BernoulliDelays(p=0.6), 20, 0, step) > 0
        assert not (rarely & ~often).any()


@pytest.mark.parametrize("workers", [(6,), (0, 17), (-1,)])
def test_a_worker_that_does_not_exist_is_named(workers):
    wrong = next(worker for worker in workers if not 0 <= worker < N)
    with pytest.raises(ParameterError, match=rf"^workers: there is no worker {wrong}; worker ids are 0 to 5$"):
        FixedDelays(N, workers=workers)


def test_a_worker_named_twice_is_refused():
    with pytest.raises(ParameterError, match=r"^workers: \[2, 3, 2\] names a worker twice"):
        FixedDelays(N, workers=(2, 3, 2))

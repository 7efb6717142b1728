"""Every delay model obeys the same laws."""

import inspect
import math
from pathlib import Path

import numpy as np
import pytest

from gcdl.errors import ParameterError
from gcdl.stragglers import (
    STRAGGLERS,
    BeforeSending,
    BernoulliDelays,
    BurstDelays,
    ExactlyDelays,
    ExponentialDelays,
    FixedDelays,
    NoDelays,
    ParetoDelays,
    ShiftedExponentialDelays,
    SpeedFactors,
    StepKey,
    SumOfModels,
    delays_at,
)

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
    ("exactly", {"count": 2}),
    ("exactly", {"count": 6, "seconds": math.inf}),
    ("exponential", {"seconds": 0.3}),
    ("shifted_exponential", {"shift": 0.2, "seconds": 0.5}),
    ("shifted_exponential", {"shift": 0.5, "seconds": 0.5}),
    ("pareto", {"shape": 1.5}),
    ("bursts", {"p": 0.3, "length": 4.0}),
    ("bursts", {"p": 0.6, "length": 1.5, "seconds": math.inf}),
    ("bursts", {"p": 0.0}),
    ("speeds", {"factors": 3.0, "workers": (1, 4)}),
    ("trace", {"file": str(Path(__file__).parent / "four_workers.csv")}),
    ("sum", {"models": (BernoulliDelays(p=0.5), SpeedFactors(N, factors=2.0), BurstDelays(p=0.4))}),
]


def seconds(model, n, seed, step):
    return delays_at(model, n, seed, step).seconds


@pytest.fixture(params=TABLE, ids=lambda case: f"{case[0]} {list(case[1])}")
def model(request):
    kind, params = request.param
    plugin = STRAGGLERS[kind]
    n = {"n": workers(kind)} if "n" in inspect.signature(plugin).parameters else {}
    built = plugin(**n, **params)
    built.n_under_test = workers(kind)
    return built


def workers(kind):
    return 4 if kind == "trace" else N


def test_the_table_names_every_model():
    assert {kind for kind, _ in TABLE} == set(STRAGGLERS)


def test_delays_are_one_number_of_seconds_for_each_worker(model):
    for step in range(20):
        delays = seconds(model, model.n_under_test, 0, step)
        assert delays.shape == (model.n_under_test,)
        assert delays.dtype == np.float64
        assert (delays >= 0.0).all()  # and so no NaN


def test_delays_depend_on_seed_and_step_only(model):
    in_order = [seconds(model, model.n_under_test, 3, step) for step in range(30)]
    backwards = [seconds(model, model.n_under_test, 3, step) for step in reversed(range(30))][::-1]
    np.testing.assert_array_equal(in_order, backwards)


def test_delays_leave_numpys_global_generator_alone(model):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    seconds(model, model.n_under_test, 0, 0)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_no_delay_is_zero_for_everyone():
    assert not seconds(NoDelays(), N, 0, 0).any()


def test_fixed_delays_the_named_workers_in_every_step_and_no_others():
    model = FixedDelays(N, workers=(4, 1), seconds=1.5)
    for step in range(5):
        assert seconds(model, N, 0, step).tolist() == [0.0, 1.5, 0.0, 0.0, 1.5, 0.0]


def test_fixed_for_ever_means_no_reply():
    assert seconds(FixedDelays(3, workers=(1,), seconds=math.inf), 3, 0, 0).tolist() == [0.0, math.inf, 0.0]


@pytest.mark.parametrize("late", [0.5, math.inf])
def test_bernoulli_delays_are_nothing_or_the_seconds(late):
    assert set(drawn(BernoulliDelays(p=0.5, seconds=late), N, 50)) == {0.0, late}


@pytest.mark.parametrize("p", [0.0, 0.2, 0.7, 1.0])
def test_bernoulli_delays_each_worker_with_probability_p(p):
    steps = 3000
    late = np.array([seconds(BernoulliDelays(p=p), N, 0, step) > 0 for step in range(steps)])
    assert (np.abs(late.mean(axis=0) - p) <= 4.0 * math.sqrt(p * (1 - p) / steps)).all()


def test_bernoulli_draws_are_independent_between_workers_and_steps():
    steps = 4000
    late = np.array([seconds(BernoulliDelays(p=0.5), N, 0, step) > 0 for step in range(steps)], dtype=float)
    within = np.corrcoef(late.T) - np.eye(N)
    between = np.corrcoef(late[:-1].ravel(), late[1:].ravel())[0, 1]
    assert np.abs(within).max() <= 4.0 / math.sqrt(steps)
    assert abs(between) <= 4.0 / math.sqrt(steps * N)


def test_other_seeds_and_other_steps_draw_other_delays():
    model = BernoulliDelays(p=0.5)
    drawn = [tuple(seconds(model, 64, seed, step)) for seed in range(3) for step in range(3)]
    assert len(set(drawn)) == len(drawn)


def test_the_draw_is_joint_so_a_models_strength_does_not_move_the_others():
    # p decides who is late among the same uniform numbers: whoever is late at p = 0.2 is late at p = 0.6.
    for step in range(50):
        rarely = seconds(BernoulliDelays(p=0.2), 20, 0, step) > 0
        often = seconds(BernoulliDelays(p=0.6), 20, 0, step) > 0
        assert not (rarely & ~often).any()


@pytest.mark.parametrize("workers", [(6,), (0, 17), (-1,)])
def test_a_worker_that_does_not_exist_is_named(workers):
    wrong = next(worker for worker in workers if not 0 <= worker < N)
    with pytest.raises(ParameterError, match=rf"^workers: there is no worker {wrong}; worker ids are 0 to 5$"):
        FixedDelays(N, workers=workers)


def test_a_worker_named_twice_is_refused():
    with pytest.raises(ParameterError, match=r"^workers: \[2, 3, 2\] names a worker twice"):
        FixedDelays(N, workers=(2, 3, 2))


# --- distributions ----------------------------------------------------------------------------------------------------


def drawn(model, n=200, steps=100, seed=1):
    """Many draws, as one sample."""
    return np.concatenate([seconds(model, n, seed, step) for step in range(steps)])


def ks(sample, cdf):
    """The Kolmogorov-Smirnov statistic, in units of 1 / sqrt(size): above 1.95 with probability 0.001."""
    ordered = np.sort(sample)
    at = cdf(ordered)
    steps = np.arange(len(ordered) + 1) / len(ordered)
    return max((steps[1:] - at).max(), (at - steps[:-1]).max()) * math.sqrt(len(ordered))


CONTINUOUS = {
    "exponential": (ExponentialDelays(seconds=0.3), 0.3, lambda x: 1 - np.exp(-x / 0.3)),
    "shifted exponential": (
        ShiftedExponentialDelays(shift=0.2, seconds=0.5),
        0.5,
        lambda x: 1 - np.exp(-(x - 0.2) / 0.3),
    ),
    "pareto": (ParetoDelays(shape=3.0, seconds=0.6), 0.6, lambda x: 1 - (0.4 / x) ** 3.0),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_draws_follow_their_distribution(name):
    model, mean, cdf = CONTINUOUS[name]
    sample = drawn(model)
    assert ks(sample, cdf) < 1.95
    assert ks(sample * 1.05, cdf) > 1.95  # the test would notice 5 %
    assert sample.mean() == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_draws_are_independent_between_workers_and_steps(name):
    model, _, cdf = CONTINUOUS[name]
    uniform = np.array([cdf(seconds(model, N, 2, step)) for step in range(4000)])
    assert np.abs(np.corrcoef(uniform.T) - np.eye(N)).max() <= 4.0 / math.sqrt(4000)
    assert abs(np.corrcoef(uniform[:-1].ravel(), uniform[1:].ravel())[0, 1]) <= 4.0 / math.sqrt(4000 * N)


def test_exactly_so_many_are_late_and_every_worker_as_often():
    late = np.array([seconds(ExactlyDelays(N, count=2), N, 0, step) > 0 for step in range(3000)])
    assert (late.sum(axis=1) == 2).all()
    assert (np.abs(late.mean(axis=0) - 1 / 3) <= 4.0 * math.sqrt(2 / 9 / 3000)).all()
    pairs = {tuple(np.flatnonzero(row)) for row in late}
    assert len(pairs) == 15


@pytest.mark.parametrize(("p", "length"), [(0.3, 5.0), (0.1, 2.0), (0.6, 1.6), (0.5, 1.25), (0.5, 40.0)])
def test_bursts_are_a_markov_chain_with_the_given_share_and_length(p, length):
    n, steps = 400, 400
    bad = np.array([seconds(BurstDelays(p=p, length=length), n, 0, step) > 0 for step in range(steps)])
    leave = 1.0 / length
    enter = leave * p / (1.0 - p)
    memory = 1.0 - enter - leave  # the correlation of neighbouring steps
    per_chain = (1.0 + memory) / (1.0 - memory) * p * (1.0 - p) / steps
    assert abs(bad.mean() - p) <= 4.0 * math.sqrt(per_chain / n)
    # From the first step on: the chain begins in the distribution it stays in.
    assert abs(bad[0].mean() - p) <= 4.0 * math.sqrt(p * (1 - p) / n)
    now, then = bad[:-1], bad[1:]
    for state, chance in ((False, enter), (True, leave)):
        moved = (then != now)[now == state]
        assert abs(moved.mean() - chance) <= 4.0 * math.sqrt(chance * (1 - chance) / moved.size) + 1e-12
    # Markov: what comes next does not depend on what came before.
    for before in (False, True):
        moved = ~then[1:][now[1:] & (now[:-1] == before)]
        assert abs(moved.mean() - leave) <= 4.0 * math.sqrt(leave * (1 - leave) / moved.size) + 1e-12


@pytest.mark.parametrize(("p", "length"), [(0.3, 5.0), (0.6, 1.6)])
def test_a_burst_is_the_same_whichever_step_is_asked_for_first(p, length):
    together = BurstDelays(p=p, length=length)
    in_order = [seconds(together, 50, 7, step) for step in range(60)]
    for step in (59, 3, 30, 0, 31, 31, 12):
        np.testing.assert_array_equal(seconds(BurstDelays(p=p, length=length), 50, 7, step), in_order[step])
        np.testing.assert_array_equal(together.delays_at(50, StepKey(7, step)).seconds, in_order[step])


# --- composition, speed, place ------------------------------------------------------------------------------------------


def test_slow_machines_are_slow_and_not_late():
    delays = delays_at(SpeedFactors(N, factors=(3.0, 1.5), workers=(4, 0)), N, 0, 9)
    assert delays.factor.tolist() == [1.5, 1.0, 1.0, 1.0, 3.0, 1.0]
    assert not delays.seconds.any()
    assert delays_at(SpeedFactors(3, factors=2.0), 3, 0, 0).factor.tolist() == [2.0] * 3


def test_a_sum_adds_delays_and_multiplies_factors():
    model = SumOfModels(
        models=(
            FixedDelays(3, workers=(0,), seconds=1.0),
            BeforeSending(FixedDelays(3, workers=(0, 1), seconds=0.5)),
            SpeedFactors(3, factors=2.0),
            SpeedFactors(3, factors=3.0, workers=(2,)),
        )
    )
    delays = delays_at(model, 3, 0, 0)
    assert delays.before_compute.tolist() == [1.0, 0.0, 0.0]
    assert delays.before_send.tolist() == [0.5, 0.5, 0.0]
    assert delays.factor.tolist() == [2.0, 2.0, 6.0]


def test_the_parts_of_a_sum_draw_independently_and_the_first_as_if_alone():
    one, two = (
        np.array([seconds(model, 50, 0, step) for step in range(60)]).ravel()
        for model in (ExponentialDelays(), SumOfModels(models=(ExponentialDelays(), ExponentialDelays())))
    )
    second = two - one
    assert (second > 0).all()  # the first part of the sum is what the model draws alone
    assert abs(np.corrcoef(one, second)[0, 1]) <= 4.0 / math.sqrt(3000)
    assert ks(second, lambda x: 1 - np.exp(-x)) < 1.95


def test_before_sending_moves_the_delay():
    delays = delays_at(BeforeSending(ExponentialDelays()), N, 5, 6)
    np.testing.assert_array_equal(delays.before_send, seconds(ExponentialDelays(), N, 5, 6))
    assert not delays.before_compute.any()


def test_a_draw_is_shared_and_cannot_be_changed():
    model = ExponentialDelays()
    assert delays_at(model, N, 0, 1) is delays_at(model, N, 0, 1)
    with pytest.raises(ValueError, match="read-only"):
        delays_at(model, N, 0, 1).before_compute[0] = 0.0


def test_seeds_keep_their_meaning():
    # A change here changes the delays of everybody's old runs.
    assert np.flatnonzero(seconds(BernoulliDelays(p=0.3), 12, 5, 17)).tolist() == [0, 5, 6, 7, 11]

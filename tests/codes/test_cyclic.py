"""Cyclic codes: support, exactness beyond small n, conditioning, and what conditioning is worth with one bit."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from gcdl.codes import GradientCode, cyclic_mds, cyclic_repetition, least_squares, noise_gain
from gcdl.codes.construction.cyclic_search import random_null_space, with_null_space
from gcdl.codes.construction.few_missing import FewMissing
from gcdl.codes.health import patterns, sampled_patterns, survey
from gcdl.config import Experiment, parse
from gcdl.errors import ParameterError
from gcdl.protocol.master import Master
from gcdl.protocol.model_slices import one_slice
from gcdl.protocol.worker import Worker
from gcdl.training.build import make_pace
from gcdl.transport.simulated.virtual_clock import SimulatedTransport


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("n", "s"), [(5, 1), (7, 3), (9, 4), (12, 5), (2, 1)])
def test_cyclic_rows_have_norm_one_and_cyclic_supports(n, s):
    codes = [cyclic_repetition(n, n, rng(), stragglers=s)]
    codes += [cyclic_mds(n, n, rng(), stragglers=s)] if (n - s) % 2 else []
    for code in codes:
        np.testing.assert_allclose(np.linalg.norm(code.B, axis=1), 1.0)
        for worker in range(n):
            assert set(code.shards(worker)) == {(worker + offset) % n for offset in range(s + 1)}


def test_a_cyclic_mds_code_is_circulant_and_any_n_minus_s_rows_are_independent():
    for n, s in [(7, 2), (8, 3), (9, 4)]:
        B = cyclic_mds(n, n, rng(), stragglers=s).B
        for worker in range(n):
            np.testing.assert_array_equal(B[worker], np.roll(B[0], worker))
        for arrived in patterns(n, s):
            assert np.linalg.matrix_rank(B[arrived]) == n - s


@pytest.mark.parametrize(("build", "n", "s"), [
    (cyclic_repetition, 8, 3), (cyclic_repetition, 9, 3), (cyclic_repetition, 9, 4), (cyclic_mds, 9, 4), (cyclic_mds, 8, 3),
])  # fmt: skip
def test_the_closed_form_is_the_minimum_norm_solution(build, n, s):
    code = build(n, n, rng(), stragglers=s)
    for lost in range(s + 1):
        for arrived in patterns(n, lost):
            a = code.closed_form(arrived)
            assert not a[~arrived].any()
            np.testing.assert_allclose(a[arrived], least_squares(code.B[arrived]), atol=1e-7)
    assert code.closed_form(next(patterns(n, s + 1))) is None


def test_the_worst_noise_gain_of_the_search_is_that_of_the_decoder():
    n, s = 9, 3
    B = with_null_space(random_null_space(n, s, rng(4)))
    missing = np.array(list(itertools.combinations(range(n), s)))
    gains = [noise_gain(GradientCode(B).decoding_vector(arrived)) for arrived in patterns(n, s)]
    assert FewMissing.of(B, s).worst_noise_gain(missing) == pytest.approx(max(gains), rel=1e-6)


def test_a_code_that_fails_in_some_pattern_has_no_finite_worst_noise_gain():
    # Frequencies 1 and 4 of 15: some sets of 4 missing workers can't be decoded.
    j = 2 * np.pi * np.arange(15) / 15
    B = with_null_space(np.array([np.cos(j), np.sin(j), np.cos(4 * j), np.sin(4 * j)]))
    missing = np.array(list(itertools.combinations(range(15), 4)))
    assert FewMissing.of(B, 4).worst_noise_gain(missing) == np.inf
    assert max(GradientCode(B).decoding_error(GradientCode(B).decoding_vector(m)) for m in patterns(15, 4)) > 1e-3


LARGE = [
    (cyclic_repetition, 50, 7),
    (cyclic_repetition, 15, 4),
    (cyclic_repetition, 24, 3),
    (cyclic_mds, 15, 4),
    (cyclic_mds, 24, 3),
]
LARGER = [
    *((cyclic_repetition, n, s) for n, s in [(50, 2), (101, 3), (200, 4), (200, 19), (199, 4)]),
    *((cyclic_mds, n, s) for n, s in [(101, 2), (200, 3)]),
]  # fmt: skip


@pytest.mark.parametrize(("build", "n", "s"), [*LARGE, *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in LARGER)])
def test_random_patterns_of_larger_codes_are_decoded_exactly(build, n, s):
    code = build(n, n, rng(), stragglers=s)
    for lost in range(s + 1):
        for arrived in sampled_patterns(n, lost, rng(lost), 100):
            assert code.decoding_error(code.decoding_vector(arrived)) < 1e-9


def test_the_search_is_seeded():
    for build, n, s in [(cyclic_repetition, 8, 2), (cyclic_mds, 11, 4)]:
        assert build(n, n, rng(3), stragglers=s).B.tobytes() == build(n, n, rng(3), stragglers=s).B.tobytes()


@pytest.mark.parametrize(("n", "s"), [(6, 2), (12, 3), (15, 4), (20, 4), (100, 3)])
def test_where_s_plus_1_divides_n_the_worst_noise_gain_is_root_n(n, s):
    code = cyclic_repetition(n, n, rng(), stragglers=s)
    assert survey(code, s, rng(), limit=5000).worst_gain == pytest.approx(math.sqrt(n))


@pytest.mark.parametrize(("n", "s", "found"), [(7, 2, 5.4), (9, 4, 21.9), (11, 4, 41.0), (12, 4, 18.0)])
def test_the_search_keeps_the_best_it_has_seen(n, s, found):
    assert survey(cyclic_repetition(n, n, rng(), stragglers=s), s, rng()).worst_gain < found


def test_where_not_all_patterns_can_be_looked_at_regular_ones_are_decoded_all_the_same():
    # Sampled waves as they are fail when workers at equal distances are missing, which no random pattern shows.
    n, s = 28, 8
    code = cyclic_repetition(n, n, rng(), stragglers=s)
    for first, distance in itertools.product(range(n), range(1, n)):
        missing = {(first + i * distance) % n for i in range(s)}
        arrived = np.array([worker not in missing for worker in range(n)])
        assert code.decoding_error(code.decoding_vector(arrived)) < 1e-8  # ||a|| reaches 1e5 here


def unsearched(n, s, seed, *, unit_rows):
    """One draw of Algorithm 2, with rows of norm one, or B_ii = 1 as in the paper."""
    B = with_null_space(random_null_space(n, s, rng(seed)))
    return B if unit_rows else B / np.diag(B)[:, None]


def all_patterns(n, s):
    return np.array(list(itertools.combinations(range(n), s)))


@pytest.mark.parametrize(("n", "s"), [(7, 3), (8, 2), (9, 4), (11, 4)])
def test_the_search_beats_single_draws_where_s_plus_1_does_not_divide_n(n, s):
    missing = all_patterns(n, s)
    draws = [FewMissing.of(unsearched(n, s, seed, unit_rows=True), s).worst_noise_gain(missing) for seed in range(25)]
    searched = [survey(cyclic_repetition(n, n, rng(seed), stragglers=s), s, rng()).worst_gain for seed in range(2)]
    assert max(searched) < 0.2 * np.median(draws)


@pytest.mark.parametrize("unit_rows", [True, False])
def test_at_n_15_s_4_the_worst_noise_gain_is_50_times_below_the_median_draw(unit_rows):
    n, s = 15, 4
    found = survey(cyclic_repetition(n, n, rng(), stragglers=s), s, rng(), limit=20_000)
    assert (found.patterns, found.exhaustive) == (1365, True)
    missing = all_patterns(n, s)
    draws = [FewMissing.of(unsearched(n, s, seed, unit_rows=unit_rows), s) for seed in range(101)]
    # a draw that can't be decoded in some pattern counts as infinite
    median = np.median([draw.worst_noise_gain(missing) if draw else np.inf for draw in draws])
    assert found.worst_gain * 50 < median


TRAINING = """
[problem]
kind = "linear_regression"
features = 30
samples = 20
[code]
kind = "cyclic_repetition"
stragglers = 4
[compressor]
kind = "scaled_sign"
error_feedback = true
[stragglers]
kind = "bernoulli"
p = 0.2
seconds = 0.05
[optimizer]
lr = 0.1
"""


def train(B=None, steps=300, n=15):
    experiment = Experiment.of(parse(TRAINING), n).check()
    code = experiment.code if B is None else replace(experiment.code, B=B, closed_form=None)
    problem, layout = experiment.problem, experiment.problem.layout()
    samples = problem.load(np.arange(problem.k))
    workers = [
        Worker(
            i, n, gradient=problem.gradient(samples, code.shards(i), code.B[i, code.shards(i)]),
            codec=experiment.compressor.codec(layout), layout=layout, stragglers=experiment.stragglers, seed=0,
        )
        for i in range(n)
    ]  # fmt: skip
    master = Master(
        SimulatedTransport(make_pace(experiment, layout), workers),
        code=code,
        slices=one_slice(
            code=code,
            codec=experiment.compressor.codec(layout),
            optimizer=experiment.optimizer.build(problem.initial_parameters()),
            seed=0,
        ),
        wait=experiment.wait,
    )
    for _ in master.run(steps):
        loss = problem.evaluator().evaluate(master.slices.parameters, train=True).train_loss
        if not loss < 1e6:
            return math.inf
    return loss


def test_one_bit_training_converges_with_the_searched_code_and_diverges_with_single_draws():
    assert train() < 0.01  # the noise in y alone is 0.005
    for seed, unit_rows in itertools.product(range(3), (True, False)):
        assert train(unsearched(15, 4, seed, unit_rows=unit_rows)) == math.inf


@pytest.mark.parametrize(("build", "n", "s"), [(cyclic_repetition, 200, 11), (cyclic_mds, 200, 11)])
def test_a_code_too_ill_conditioned_to_be_exact_is_refused_with_what_is_possible(build, n, s):
    with pytest.raises(ParameterError, match=r"not exact any more; possible: .* 0, 1, 3, 4, 7, 9, 19,"):
        build(n, n, rng(), stragglers=s)

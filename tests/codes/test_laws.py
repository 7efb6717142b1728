"""Every code in the table obeys the same laws."""

import inspect
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gcdl.codes import CODES, DECODERS, GradientCode, add_up, least_squares, noise_gain, sgc
from gcdl.errors import ConfigError, ParameterError

TABLE = [
    ("uncoded", 1, 1, {}),
    ("uncoded", 4, 4, {}),
    ("uncoded", 4, 11, {}),
    ("fractional_repetition", 6, 6, {"stragglers": 0}),
    ("fractional_repetition", 6, 6, {"stragglers": 1}),
    ("fractional_repetition", 6, 7, {"stragglers": 2}),
    ("fractional_repetition", 6, 2, {"stragglers": 2}),
    ("fractional_repetition", 5, 3, {"stragglers": 4}),
    ("cyclic_repetition", 5, 5, {"stragglers": 0}),
    ("cyclic_repetition", 5, 5, {"stragglers": 2}),
    ("cyclic_repetition", 7, 7, {"stragglers": 3}),
    ("cyclic_repetition", 4, 4, {"stragglers": 3}),
    ("cyclic_mds", 5, 5, {"stragglers": 0}),
    ("cyclic_mds", 5, 5, {"stragglers": 2}),
    ("cyclic_mds", 8, 8, {"stragglers": 3}),
    ("cyclic_mds", 4, 4, {"stragglers": 3}),
    ("sgc", 6, 6, {}),
    ("sgc", 5, 13, {"replication": 3, "stragglers": 1}),
    ("sgc", 7, 4, {"replication": 2, "p": 0.3}),
    ("sgc", 4, 4, {"replication": 4, "p": 0.0}),
    ("sgc", 6, 60, {"replication": 1, "stragglers": 2}),
    ("sgc", 5, 8, {"replication": 3, "p": (0.1, 0.0, 0.5, 0.3, 0.2)}),
    ("bernoulli", 6, 6, {}),
    ("bernoulli", 5, 13, {"replication": 3, "stragglers": 1}),
    ("bernoulli", 7, 4, {"replication": 4, "p": 0.3, "regularised": True}),
    ("graph", 6, 6, {}),
    ("graph", 6, 4, {"replication": 3, "stragglers": 1}),
    ("graph", 5, 13, {"replication": 2, "stragglers": 2}),
    ("bibd", 7, 7, {}),
    ("bibd", 7, 7, {"replication": 4, "stragglers": 2}),
    ("bibd", 6, 4, {"replication": 3}),
    ("bibd", 4, 6, {"replication": 2, "stragglers": 1}),
    ("bibd", 9, 12, {"replication": 3}),
]


def build(kind, n, k, params, seed=0):
    builder = CODES[kind]
    rng = {"rng": np.random.default_rng(seed)} if "rng" in inspect.signature(builder).parameters else {}
    return builder(n=n, k=k, **rng, **params)


def picked_up(kind):
    """A case for a code that the table does not name: its defaults, at the first size it exists for."""
    for n in (6, 7, 9, 12, 13, 16):
        try:
            build(kind, n, n, {})
        except ParameterError:
            continue
        return kind, n, n, {}
    raise AssertionError(f"{kind} exists for none of the sizes tried: add a case to the table")


TABLE += [picked_up(kind) for kind in CODES if kind not in {named for named, *_ in TABLE}]


def name(case):
    kind, n, k, params = case
    return f"{kind}-{n}-{k}-" + ",".join(f"{key}={value}" for key, value in params.items())


@pytest.fixture(params=TABLE, ids=map(name, TABLE))
def case(request):
    return request.param


@pytest.fixture
def code(case):
    return build(*case)


def masks(n, sizes=None):
    """All arrived sets of n workers (of these sizes)."""
    for bits in itertools.product([False, True], repeat=n):
        if sizes is None or sum(bits) in sizes:
            yield np.array(bits)


def missing_at_most(n, s):
    return masks(n, range(n - s, n + 1))


def test_the_laws_hold_for_every_code_there_is():
    assert {kind for kind, *_ in TABLE} == set(CODES)


# --- every code -----------------------------------------------------------------------------------------------------


def test_a_code_has_the_shape_and_the_stragglers_that_were_asked_for(case, code):
    _, n, k, params = case
    assert (code.n, code.k) == (n, k) == code.B.shape
    assert code.stragglers == params.get("stragglers", 0)
    assert code.B.dtype == np.float64


def test_every_worker_holds_a_shard_and_every_shard_has_a_worker(code):
    assert (code.B != 0).any(axis=0).all()
    assert (code.B != 0).any(axis=1).all()


def test_shards_are_the_support_of_a_row_in_ascending_order(code):
    for worker in range(code.n):
        assert code.shards(worker).tolist() == [j for j in range(code.k) if code.B[worker, j] != 0]


def test_the_decoding_vector_is_zero_off_the_arrived_set(code):
    for arrived in masks(code.n):
        a = code.decoding_vector(arrived)
        assert a.shape == (code.n,)
        assert a.dtype == np.float64
        assert not a[~arrived].any()


def test_the_decoding_vector_is_read_only(code):
    a = code.decoding_vector(np.ones(code.n, dtype=bool))
    with pytest.raises(ValueError, match="read-only"):
        a[0] = 5.0


def test_the_decoding_vector_of_a_pattern_is_one_cached_object(code):
    patterns = list(masks(code.n))
    first = [code.decoding_vector(arrived) for arrived in patterns]
    again = [code.decoding_vector(arrived.copy()) for arrived in patterns]
    assert all(one is other for one, other in zip(first, again, strict=True))
    assert len({id(one) for one in first}) == len(patterns)


def test_the_cache_does_not_hold_on_to_the_callers_mask(code):
    arrived = np.ones(code.n, dtype=bool)
    everyone = code.decoding_vector(arrived)
    arrived[:] = False
    assert not code.decoding_vector(arrived).any()
    assert code.decoding_vector(~arrived) is everyone


def test_the_decoding_error_is_the_distance_from_all_ones(code):
    for arrived in masks(code.n):
        a = code.decoding_vector(arrived)
        by_hand = np.sqrt(sum((sum(a[i] * code.B[i, j] for i in range(code.n)) - 1.0) ** 2 for j in range(code.k)))
        assert code.decoding_error(a) == pytest.approx(by_hand, abs=1e-12)
        assert noise_gain(a) == pytest.approx(np.sqrt((a**2).sum()), abs=1e-12)


def test_nobody_arrived_decodes_to_nothing(code):
    a = code.decoding_vector(np.zeros(code.n, dtype=bool))
    assert not a.any()
    assert code.decoding_error(a) == pytest.approx(np.sqrt(code.k))


def test_the_same_random_numbers_make_the_same_code(case):
    assert build(*case, seed=7).B.tobytes() == build(*case, seed=7).B.tobytes()


def test_codes_leave_numpys_global_generator_alone(case):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    build(*case)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


# --- exactness ------------------------------------------------------------------------------------------------------

EXACT = [
    *(("uncoded", n, k, {}) for n in range(1, 10) for k in (n, n + 1, 2 * n + 1)),
    *(
        ("fractional_repetition", n, k, {"stragglers": s})
        for n in range(1, 13)
        for s in range(n)
        if n % (s + 1) == 0
        for k in {n // (s + 1), n, n + 3}
    ),
    *(("cyclic_repetition", n, n, {"stragglers": s}) for n in range(1, 13) for s in range(n)),
    *(("cyclic_mds", n, n, {"stragglers": s}) for n in range(1, 13) for s in range(n) if s == 0 or (n - s) % 2),
]


def exact(cases):
    """Parametrize with these cases; the larger ones, whose patterns are many, are for the exhaustive suite."""
    large = pytest.mark.exhaustive
    return pytest.mark.parametrize("case", [pytest.param(c, id=name(c), marks=[large] if c[1] > 8 else []) for c in cases])


@exact(EXACT)
def test_exact_codes_decode_every_pattern_of_at_most_s_stragglers(case):
    code = build(*case)
    errors = [code.decoding_error(code.decoding_vector(arrived)) for arrived in missing_at_most(code.n, code.stragglers)]
    assert max(errors) < 1e-9


@exact([case for case in EXACT if case[3].get("stragglers", 0)])
def test_a_redundant_code_costs_each_worker_its_load_and_no_more(case):
    kind, n, k, params = case
    code = build(*case)
    loads = (code.B != 0).sum(axis=1)
    replication = (code.B != 0).sum(axis=0)
    assert (replication == params["stragglers"] + 1).all()
    if kind.startswith("cyclic"):
        assert (loads == params["stragglers"] + 1).all()
    groups = n // (params["stragglers"] + 1)
    if kind == "fractional_repetition":
        assert loads.max() - loads.min() <= (1 if k % groups else 0)


def test_one_straggler_too_many_is_not_decoded_exactly():
    for case in [("fractional_repetition", 6, 6, {"stragglers": 1}), ("cyclic_repetition", 6, 6, {"stragglers": 2})]:
        code = build(*case)
        too_few = masks(6, [6 - code.stragglers - 1])
        assert max(code.decoding_error(code.decoding_vector(arrived)) for arrived in too_few) > 0.5


# --- decoders -------------------------------------------------------------------------------------------------------


def test_least_squares_averages_equal_replicas():
    code = build("fractional_repetition", 6, 7, {"stragglers": 2})
    for arrived in masks(6):
        a = code.decoding_vector(arrived)
        for group in (slice(0, 3), slice(3, 6)):
            here = arrived[group]
            if here.any():
                np.testing.assert_allclose(a[group], here / here.sum(), atol=1e-12)


rows = arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    elements=st.integers(-3, 3).map(float),
)


@given(rows)
@settings(deadline=None, derandomize=True)
def test_least_squares_is_the_minimum_norm_solution(rows):
    a = least_squares(rows)
    by_hand = np.linalg.pinv(rows.T, rcond=1e-10) @ np.ones(rows.shape[1])
    np.testing.assert_allclose(a, by_hand, atol=1e-7)


@given(rows)
@settings(deadline=None, derandomize=True)
def test_no_weights_come_nearer_to_all_ones_than_least_squares(rows):
    missed = least_squares(rows) @ rows - 1.0
    np.testing.assert_allclose(rows @ missed, 0.0, atol=1e-8)


def test_sum_gives_weight_one_to_every_reply():
    assert add_up(np.zeros((3, 5))).tolist() == [1.0, 1.0, 1.0]
    assert set(DECODERS) >= {"sum", "least_squares"}


def test_more_patterns_than_the_cache_holds_change_nothing():
    n = 13
    code = GradientCode(np.eye(n), decoder=add_up)
    patterns = list(masks(n))
    for arrived in patterns:
        code.decoding_vector(arrived)
    for arrived in patterns[:50] + patterns[-50:]:
        assert (code.decoding_vector(arrived) == arrived).all()


# --- stochastic gradient coding -------------------------------------------------------------------------------------

SGC = [case for case in TABLE if case[0] == "sgc"] + [
    ("sgc", n, k, {"replication": d})
    for n in (2, 5, 8)
    for k in (1, 3, 8, 17)
    for d in range(1, n + 1)
    if k * d >= n
]  # fmt: skip


@pytest.mark.parametrize("case", SGC, ids=map(name, SGC))
def test_sgc_replicates_exactly_and_balances_loads_within_one(case):
    support = build(*case).B != 0
    assert (support.sum(axis=0) == case[3].get("replication", 2)).all()
    assert np.ptp(support.sum(axis=1)) <= 1


def test_sgc_weights_are_one_over_replication_times_the_chance_of_arrival():
    code = sgc(6, 6, np.random.default_rng(0), replication=3, p=0.25)
    assert set(code.B.ravel()) == {0.0, 1 / (3 * 0.75)}
    code = sgc(6, 6, np.random.default_rng(0), replication=3, stragglers=2)
    np.testing.assert_allclose(code.B[code.B != 0], 1 / (3 * (1 - 2 / 6)))


def assert_mean_is_one(rows):
    standard_error = rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
    assert (np.abs(rows.mean(axis=0) - 1.0) <= 4.0 * standard_error + 1e-12).all()


@pytest.mark.parametrize(("n", "k", "replication"), [(6, 6, 2), (6, 9, 3), (5, 5, 1), (8, 4, 4)])
@pytest.mark.parametrize("p", [0.0, 0.2, 0.6])
def test_sgc_is_unbiased_when_workers_straggle_with_probability_p(n, k, replication, p):
    code = sgc(n, k, np.random.default_rng(1), replication=replication, p=p)
    rng = np.random.default_rng(2)
    assert_mean_is_one(np.array([code.decoding_vector(rng.random(n) >= p) @ code.B for _ in range(3000)]))


@pytest.mark.parametrize(("n", "k", "replication"), [(6, 6, 2), (6, 9, 3), (5, 5, 1), (8, 4, 4)])
@pytest.mark.parametrize("s", [0, 1, 3])
def test_sgc_is_unbiased_when_exactly_s_workers_straggle(n, k, replication, s):
    code = sgc(n, k, np.random.default_rng(1), replication=replication, stragglers=s)
    rng = np.random.default_rng(2)
    patterns = [~np.isin(np.arange(n), rng.choice(n, s, replace=False)) for _ in range(3000)]
    assert_mean_is_one(np.array([code.decoding_vector(arrived) @ code.B for arrived in patterns]))


@pytest.mark.parametrize(("n", "k", "replication"), [(6, 6, 2), (6, 9, 3), (8, 4, 4)])
@pytest.mark.parametrize("kind", ["bernoulli", "graph"])
@pytest.mark.parametrize("s", [0, 1, 3])
def test_the_sum_of_an_approximate_code_is_unbiased(kind, n, k, replication, s):
    code = replace(build(kind, n, k, {"replication": replication, "stragglers": s}), decoder=add_up)
    rng = np.random.default_rng(2)
    patterns = [~np.isin(np.arange(n), rng.choice(n, s, replace=False)) for _ in range(3000)]
    assert_mean_is_one(np.array([code.decoding_vector(arrived) @ code.B for arrived in patterns]))


def test_heterogeneous_sgc_is_unbiased_when_workers_straggle_with_their_own_probabilities():
    p = (0.05, 0.1, 0.6, 0.3, 0.2, 0.4)
    code = sgc(6, 9, np.random.default_rng(1), replication=3, p=p)
    rng = np.random.default_rng(2)
    assert_mean_is_one(np.array([code.decoding_vector(rng.random(6) >= np.array(p)) @ code.B for _ in range(6000)]))


@pytest.mark.parametrize(("n", "k", "replication"), [(6, 15, 2), (7, 21, 2), (10, 20, 2), (8, 8, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_sgc_spreads_shards_over_pairs_of_workers(n, k, replication, seed):
    # There are enough pairs for each to share about one shard; chance alone would let some share three or four.
    support = (build("sgc", n, k, {"replication": replication}, seed).B != 0).astype(int)
    together = support @ support.T
    np.fill_diagonal(together, 0)
    assert together.max() <= 2


# --- k != n ---------------------------------------------------------------------------------------------------------


def test_uncoded_deals_contiguous_runs_each_shard_once():
    code = build("uncoded", 4, 11, {})
    assert [code.shards(worker).tolist() for worker in range(4)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]
    assert set(code.B.ravel()) == {0.0, 1.0}


def test_uncoded_is_the_identity_when_shards_are_as_many_as_workers():
    np.testing.assert_array_equal(build("uncoded", 5, 5, {}).B, np.eye(5))


def test_fractional_repetition_gives_a_group_the_same_shards():
    code = build("fractional_repetition", 6, 7, {"stragglers": 2})
    assert [code.shards(worker).tolist() for worker in range(6)] == [[0, 1, 2, 3]] * 3 + [[4, 5, 6]] * 3
    for group in (code.B[:3], code.B[3:]):
        assert (group == group[0]).all()


# --- errors ---------------------------------------------------------------------------------------------------------

IMPOSSIBLE = [
    ("uncoded", 4, 3, {}, r"at least 4 shards"),
    ("fractional_repetition", 6, 6, {"stragglers": 3}, r"must divide .* 6; possible values of stragglers: 0, 1, 2, 5$"),
    ("fractional_repetition", 6, 6, {"stragglers": 6}, r"possible values of stragglers: 0, 1, 2, 5$"),
    ("fractional_repetition", 1, 1, {"stragglers": 1}, r"possible values of stragglers: 0$"),
    ("fractional_repetition", 6, 2, {"stragglers": 1}, r"3 groups need at least 3 shards, not 2"),
    ("cyclic_repetition", 4, 5, {"stragglers": 1}, r"as many shards as workers \(4\), not 5"),
    ("cyclic_repetition", 4, 4, {"stragglers": 4}, r"at most n - 1 = 3"),
    ("cyclic_repetition", 4, 4, {"stragglers": 9}, r"at most n - 1 = 3"),
    ("cyclic_mds", 4, 5, {"stragglers": 1}, r"as many shards as workers \(4\), not 5"),
    ("cyclic_mds", 6, 6, {"stragglers": 2}, r"possible values of stragglers: 0, 1, 3, 5$"),
    ("cyclic_mds", 7, 7, {"stragglers": 1}, r"possible values of stragglers: 0, 2, 4, 6$"),
    ("cyclic_mds", 7, 7, {"stragglers": 8}, r"possible values of stragglers: 0, 2, 4, 6$"),
    ("cyclic_mds", 1, 1, {"stragglers": 1}, r"possible values of stragglers: 0$"),
    ("sgc", 4, 4, {"replication": 5}, r"replication = 5 must be at most the number of workers, 4"),
    ("sgc", 5, 2, {"replication": 2}, r"2 shards on 2 workers each leave some of the 5 workers"),
    ("sgc", 4, 4, {"stragglers": 4}, r"stragglers = 4 must be at most n - 1 = 3"),
    *(
        (kind, n, k, params, message)
        for kind in ("bernoulli", "graph")
        for n, k, params, message in [
            (4, 4, {"replication": 5}, r"replication = 5 must be at most the number of workers, 4"),
            (5, 2, {"replication": 2}, r"2 shards on 2 workers each leave some of the 5 workers"),
            (4, 4, {"stragglers": 4}, r"stragglers = 4 must be at most n - 1 = 3"),
        ]
    ),
    ("bibd", 7, 7, {"stragglers": 7}, r"stragglers = 7 must be at most n - 1 = 6"),
    (
        "bibd",
        8,
        8,
        {"replication": 3},
        r"8 workers, 8 shards, replication 3; the nearest: .*7 workers, 7 shards, replication 3",
    ),
    ("bibd", 20, 21, {}, r"20 workers, 21 shards; the nearest: 21 workers, 21 shards, replication 5;"),
]


@pytest.mark.parametrize(("kind", "n", "k", "params", "message"), IMPOSSIBLE)
def test_impossible_parameters_say_what_is_possible(kind, n, k, params, message):
    with pytest.raises(ParameterError, match=message) as caught:
        build(kind, n, k, params)
    assert str(caught.value).startswith(f"{kind}: ")
    assert isinstance(caught.value, ConfigError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.exit_code == 2


def test_the_values_an_error_calls_possible_are_possible():
    for kind, n in itertools.product(["fractional_repetition", "cyclic_mds"], range(1, 10)):
        with pytest.raises(ParameterError) as caught:
            build(kind, n, n, {"stragglers": n})
        for s in str(caught.value).rsplit(": ", 1)[1].split(", "):
            assert build(kind, n, n, {"stragglers": int(s)}).stragglers == int(s)


def test_the_designs_an_error_calls_nearest_exist():
    for n, k, replication in [(8, 8, 3), (20, 21, None), (100, 100, 9), (1, 1, 1), (1000, 1000, 3)]:
        with pytest.raises(ParameterError) as caught:
            build("bibd", n, k, {"replication": replication})
        nearest = re.findall(r"(\d+) workers, (\d+) shards, replication (\d+)", str(caught.value).split("nearest:")[1])
        assert len(nearest) == 4
        for N, K, r in nearest:
            code = build("bibd", int(N), int(K), {"replication": int(r)})
            assert ((code.B != 0).sum(axis=0) == int(r)).all()


def test_a_list_of_probabilities_must_have_one_for_each_worker():
    with pytest.raises(ParameterError, match=r"^p: needs one probability, or one for each of the 4 workers, not 3$"):
        sgc(4, 4, np.random.default_rng(0), p=(0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    ("B", "message"),
    [
        (np.ones(3), r"not one of shape \(3,\)"),
        (np.ones((2, 2, 2)), r"not one of shape \(2, 2, 2\)"),
        (np.ones((0, 3)), r"not one of shape \(0, 3\)"),
        (np.ones((3, 0)), r"not one of shape \(3, 0\)"),
        ([[1.0, np.nan]], "finite"),
        ([[1.0, np.inf]], "finite"),
        ([[1.0, 0.0], [1.0, 0.0]], "no worker holds shard 1"),
    ],
)
def test_a_matrix_that_is_no_code_is_refused(B, message):
    with pytest.raises(ParameterError, match=message):
        GradientCode(B)


@pytest.mark.parametrize("stragglers", [-1, 2, 7])
def test_a_code_cannot_tolerate_all_of_its_workers(stragglers):
    with pytest.raises(ParameterError, match=rf"stragglers = {stragglers} must be between 0 and n - 1 = 1"):
        GradientCode(np.eye(2), stragglers=stragglers)


def test_a_code_owns_its_matrix():
    B = np.eye(3)
    code = GradientCode(B)
    B[:] = 5.0
    np.testing.assert_array_equal(code.B, np.eye(3))
    with pytest.raises(ValueError, match="read-only"):
        code.B[0, 0] = 2.0

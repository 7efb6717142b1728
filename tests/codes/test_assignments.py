"""Assignments: balanced, Bernoulli, regular graphs, block designs; and the weights for unequal workers."""

import math

import numpy as np
import pytest

from gcdl.codes import bernoulli, bibd, graph, sgc
from gcdl.codes.bibd import _designs
from gcdl.codes.construction.assignment import balanced, spread
from gcdl.codes.construction.finite_field import field, prime_powers
from gcdl.codes.graph import random_regular, second_singular_value
from gcdl.codes.health import sampled_patterns
from gcdl.codes.sgc import heterogeneous


def rng(seed=0):
    return np.random.default_rng(seed)


# --- balance --------------------------------------------------------------------------------------------------------

GRID = [
    (n, k, d) for n in range(2, 13) for k in (2, 3, 5, n, n + 1, 2 * n) for d in range(1, n + 1) if k * d >= n
]  # fmt: skip


def test_balanced_assignments_have_the_replication_and_loads_within_one():
    for n, k, d in [*GRID, (100, 100, 5), (37, 61, 4)]:
        A = balanced(n, k, d, rng())
        assert (A.sum(axis=0) == d).all()
        assert np.ptp(A.sum(axis=1)) <= 1


def test_meetings_of_shards_are_within_one_mostly_and_within_four_on_small_grids():
    # Often within one is impossible: 8 shards on pairs out of 4 workers must repeat a pair, and leave two shards apart.
    gaps = [high - low for low, high in (spread(balanced(n, k, d, rng())) for n, k, d in GRID)]
    assert np.mean(np.array(gaps) <= 1) > 0.85
    assert max(gaps) <= 4


@pytest.mark.parametrize(
    ("n", "k", "d"), [(7, 7, 3), (13, 13, 4), (6, 15, 2), (100, 100, 3), (100, 100, 5), (50, 100, 4), (400, 400, 3)]
)
def test_shards_meet_within_one_where_there_is_room(n, k, d):
    low, high = spread(balanced(n, k, d, rng()))
    assert high - low <= 1


def test_spread_counts_the_workers_in_which_shards_meet():
    assert spread(np.array([[1, 1, 0], [1, 1, 1]], dtype=bool)) == (1, 2)
    assert spread(np.ones((3, 1), dtype=bool)) == (0, 0)


# --- Song and Choi --------------------------------------------------------------------------------------------------


def optimum(support, p):
    """The least sum_i c_i L_i^2 by the Karush-Kuhn-Tucker system over all weights."""
    at = np.argwhere(support)
    c = p / (1 - p)
    Q = 2 * c[at[:, 0], None] * (at[:, 0, None] == at[None, :, 0])
    ones = (np.arange(support.shape[1])[:, None] == at[None, :, 1]).astype(float)
    system = np.block([[Q, ones.T], [ones, np.zeros((len(ones), len(ones)))]])
    w = np.linalg.lstsq(system, np.repeat([0.0, 1.0], [len(at), len(ones)]), rcond=None)[0][: len(at)]
    return w @ Q @ w / 2


@pytest.mark.parametrize(("n", "k", "d"), [(6, 6, 2), (8, 12, 3), (5, 4, 2), (10, 5, 2), (4, 4, 4), (4, 4, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_heterogeneous_weights_solve_the_quadratic_programme(n, k, d, seed):
    support = balanced(n, k, d, rng(seed))
    p = rng(seed).random(n) * 0.9
    if seed == 2:
        p[0] = 0.0
    W = heterogeneous(support, p) * (1 - p)[:, None]
    assert ((W != 0) == support).all()
    np.testing.assert_allclose(W.sum(axis=0), 1.0)
    value = np.sum(p / (1 - p) * W.sum(axis=1) ** 2)
    assert value == pytest.approx(optimum(support, p), rel=1e-6, abs=1e-9)
    uniform = support / support.sum(axis=0)
    assert value <= np.sum(p / (1 - p) * uniform.sum(axis=1) ** 2) + 1e-9


def test_equal_probabilities_and_loads_give_the_weights_of_plain_sgc():
    plain = sgc(6, 6, rng(), replication=3, p=0.25)
    np.testing.assert_allclose(sgc(6, 6, rng(), replication=3, p=(0.25,) * 6).B, plain.B)


# --- Bernoulli ------------------------------------------------------------------------------------------------------


def test_bernoulli_entries_come_with_probability_replication_over_n():
    codes = [bernoulli(40, 50, rng(seed), replication=8) for seed in range(20)]
    share = np.array([(code.B != 0).mean() for code in codes])
    assert abs(share.mean() - 8 / 40) < 4 * math.sqrt(0.2 * 0.8 / (20 * 40 * 50))
    loads = np.concatenate([(code.B != 0).sum(axis=1) for code in codes])
    assert loads.var() == pytest.approx(50 * 0.2 * 0.8, rel=0.2)


def test_a_regularised_bernoulli_code_caps_loads_at_twice_the_expected():
    plain = [(bernoulli(60, 60, rng(seed), replication=2).B != 0).sum(axis=1).max() for seed in range(10)]
    capped = [(bernoulli(60, 60, rng(seed), replication=2, regularised=True).B != 0).sum(axis=1).max() for seed in range(10)]
    assert max(plain) > 5
    # A shard that was left without a worker goes to one with the least load, so the cap holds.
    assert max(capped) == 4


# --- graphs ---------------------------------------------------------------------------------------------------------


def test_random_regular_graphs_are_simple_and_regular():
    for n in range(1, 11):
        for k in range(1, 20):
            for d in range(1, n + 1):
                support = random_regular(n, k, d, rng(n * k))
                assert (support.sum(axis=0) == d).all()
                assert np.ptp(support.sum(axis=1)) <= 1


def test_the_graph_is_a_good_expander():
    # A d-regular bipartite graph has second singular value 2 sqrt(d - 1) at best, about (Alon and Boppana; Feng and Li).
    support = graph(100, 100, rng(), replication=5).B != 0
    assert second_singular_value(support) < 1.08 * 2 * math.sqrt(4)
    assert second_singular_value(np.eye(4, dtype=bool).repeat(2, axis=0).repeat(2, axis=1)) == pytest.approx(2.0)


def test_twice_as_many_workers_as_vertices_hold_the_ends_of_edges():
    code = graph(30, 20, rng(), replication=3)
    assert all(code.shards(worker).size == 2 for worker in range(30))


# --- designs --------------------------------------------------------------------------------------------------------

DESIGNS = [(n, k, r, build) for n, k, r, build in _designs() if max(n, k) <= 95]


def constant_off_the_diagonal(square):
    return np.ptp(square[~np.eye(len(square), dtype=bool)]) == 0 if len(square) > 1 else True


def test_designs_are_designs():
    assert {(n, k, r) for n, k, r, _ in DESIGNS} >= {
        (7, 7, 3), (13, 13, 4), (21, 21, 5), (31, 31, 6), (57, 57, 8), (73, 73, 9), (91, 91, 10),  # planes; 4, 8 and 9 too
        (12, 9, 4), (9, 12, 3), (20, 16, 5), (72, 64, 9), (90, 81, 10), (11, 11, 5), (37, 37, 9), (10, 5, 4), (8, 8, 7),
    }  # fmt: skip
    for n, k, r, build in DESIGNS:
        A = build().astype(int)
        assert A.shape == (n, k)
        assert (A.sum(axis=0) == r).all()
        assert np.ptp(A.sum(axis=1)) == 0
        points, blocks = constant_off_the_diagonal(A.T @ A), constant_off_the_diagonal(A @ A.T)
        assert points or blocks
        assert (points and blocks) or n != k


@pytest.mark.parametrize(("n", "k", "r"), [(7, 7, 3), (21, 21, 5), (11, 11, 6), (9, 12, 3), (5, 10, 2), (4, 4, 3)])
def test_the_closed_form_of_a_design_is_least_squares(n, k, r):
    code = bibd(n, k, replication=r)
    assert code.closed_form is not None
    for lost in range(n):
        for arrived in sampled_patterns(n, lost, rng(lost), 5):
            a = np.linalg.pinv(code.B[arrived].T) @ np.ones(k)
            np.testing.assert_allclose(code.closed_form(arrived)[arrived], a, atol=1e-9)
            assert not code.closed_form(arrived)[~arrived].any()


def test_blocks_of_points_have_no_closed_form():
    assert bibd(12, 9, replication=4).closed_form is None


def test_left_out_the_replication_is_the_smallest():
    assert ((bibd(7, 7).B != 0).sum(axis=0) == 3).all()
    assert ((bibd(11, 11).B != 0).sum(axis=0) == 5).all()


def test_fields_are_fields():
    for q in prime_powers(16):
        add, multiply = field(q)
        x, y, z = np.meshgrid(*[np.arange(q)] * 3, indexing="ij")
        for table, elements in ((add, range(q)), (multiply, range(1, q))):
            assert (table == table.T).all()
            assert (table[table[x, y], z] == table[x, table[y, z]]).all()
            assert all(sorted(table[a, elements]) == list(elements) for a in elements)
        assert (multiply[x, add[y, z]] == add[multiply[x, y], multiply[x, z]]).all()
    assert prime_powers(32) == [2, 3, 4, 5, 7, 8, 9, 11, 13, 16, 17, 19, 23, 25, 27, 29, 31, 32]
    with pytest.raises(ValueError, match="6"):
        field(6)

"""Places of workers under correlated dither: a permutation that spreads replicas evenly."""

import numpy as np
import pytest

from gcdl.codes import cyclic_repetition, fractional_repetition, sgc, uncoded
from gcdl.codes.construction.dither_places import dither_places, dither_shifts


@pytest.mark.parametrize(
    "B",
    [
        uncoded(1, 1).B,
        uncoded(5, 5).B,
        fractional_repetition(12, 12, stragglers=2).B,
        cyclic_repetition(7, 7, np.random.default_rng(0), stragglers=2).B,
        sgc(10, 10, np.random.default_rng(0), replication=3).B,
        np.zeros((4, 3)),
    ],
    ids=lambda B: str(B.shape),
)
def test_places_are_a_permutation(B):
    assert sorted(dither_places(B).tolist()) == list(range(len(B)))


@pytest.mark.parametrize(("n", "s"), [(4, 1), (8, 1), (12, 2), (12, 3), (100, 4), (6, 5)])
def test_replicas_are_evenly_spread(n, s):
    # Whatever the ids of a group's workers.
    B = fractional_repetition(n, n, stragglers=s).B[np.random.default_rng(n).permutation(n)]
    places = dither_places(B)
    for row in B:
        replicas = np.sort(places[(row == B).all(axis=1)])
        assert (np.diff(replicas) == n // (s + 1)).all()


def test_neighbours_of_a_cyclic_code_lie_far_apart():
    places = dither_places(cyclic_repetition(12, 12, np.random.default_rng(0), stragglers=2).B)
    apart = np.abs(places - np.roll(places, 1)) % 12
    assert (np.sort(np.minimum(apart, 12 - apart))[1:] >= 3).all()  # but where the line ends


def test_shifts_are_the_places_in_16_bits():
    B = fractional_repetition(6, 6, stragglers=1).B
    assert dither_shifts(B).tolist() == [place * 65536 // 6 for place in dither_places(B).tolist()]


def test_too_many_workers_keep_the_order_of_their_ids():
    B = np.zeros((2001, 1))
    assert dither_places(B).tolist() == list(range(2001))

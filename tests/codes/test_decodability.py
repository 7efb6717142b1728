"""Bounds on whether an arrived set decodes: they never exclude one that does, and leave few to be solved."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gcdl.codes import (
    GradientCode,
    bernoulli,
    bibd,
    cyclic_mds,
    cyclic_repetition,
    fractional_repetition,
    graph,
    sgc,
    uncoded,
)
from gcdl.codes.decodability import Decodability
from gcdl.protocol.wait_rules import Decodable

RNG = np.random.default_rng
CODES = {
    "uncoded": lambda: uncoded(12, 12),
    "fractional repetition": lambda: fractional_repetition(12, 12, stragglers=2),
    "cyclic repetition": lambda: cyclic_repetition(12, 12, RNG(0), stragglers=3),
    "cyclic MDS": lambda: cyclic_mds(12, 12, RNG(0), stragglers=3),
    "SGC": lambda: sgc(12, 20, RNG(0), replication=3),
    "Bernoulli": lambda: bernoulli(12, 12, RNG(0), stragglers=2),
    "graph": lambda: graph(12, 12, RNG(0), replication=3),
    "BIBD": lambda: bibd(7, 7, replication=3),
    "nearly dependent rows": lambda: GradientCode(np.eye(8) + 1.0 + 1e-7 * RNG(1).normal(size=(8, 8))),
    "nothing but noise apart": lambda: GradientCode(np.ones((6, 4)) + 1e-13 * RNG(1).normal(size=(6, 4))),
}


@pytest.mark.parametrize("tolerance", [0.0, 1e-6, 0.3])
@pytest.mark.parametrize("make", CODES.values(), ids=CODES)
def test_a_set_that_decodes_is_never_excluded_in_whatever_order_it_comes(make, tolerance):
    code, rng = make(), RNG(3)
    most = tolerance * math.sqrt(code.k)
    bound = Decodability(code.B, most)
    for _ in range(30):
        arrived = np.zeros(code.n, dtype=bool)
        sure_until = 0
        for count, worker in enumerate(rng.permutation(code.n), start=1):
            arrived[worker] = True
            decodes = code.decoding_error(code.decoding_vector(arrived)) <= most
            if count < sure_until:
                assert not decodes, "fewer replies were enough than were said to be lacking"
            if decodes:
                assert not bound.excluded(arrived)
                assert bound.lacking(arrived) == 0
            sure_until = max(sure_until, count + bound.lacking(arrived))


def test_few_sets_are_solved_before_one_decodes():
    code = cyclic_mds(50, 50, RNG(0), stragglers=5)
    rule = Decodable(code)
    solved: list[int] = []
    solve = code._solve
    object.__setattr__(code, "_solve", lambda arrived, noise: (solved.append(int(arrived.sum())), solve(arrived, noise))[1])
    for seed in range(5):
        solved.clear()
        arrived = np.zeros(50, dtype=bool)
        coming = list(RNG(seed).permutation(50))
        while not rule.enough(arrived):
            for _ in range(rule.lacking(arrived)):
                arrived[coming.pop()] = True
        assert arrived.sum() == 45
        assert solved == [45]

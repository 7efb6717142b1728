"""Differences are taken seed by seed, and called ties where they may be chance."""

import numpy as np
import pytest
from scipy import stats

from gcdl.analysis.sweeps.paired import above_the_best, half_width


def test_a_constant_difference_is_no_tie_however_much_the_seeds_differ():
    base = {0: 1.0, 1: 5.0, 2: 9.0}
    shown = above_the_best({"a": base, "b": {seed: loss + 0.1 + 0.001 * seed for seed, loss in base.items()}})
    assert shown["a"] == "best"
    assert shown["b"].startswith("+0.1 +- ")
    assert "tie" not in shown["b"]


def test_a_difference_within_its_interval_is_a_tie():
    assert above_the_best({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.3, 1: 1.9}})["b"] == "+0.1 +- 2.5: tie"


def test_the_interval_is_student_s():
    differences = np.random.default_rng(0).standard_normal(5)
    low, high = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert half_width(differences.tolist()) == pytest.approx((high - low) / 2)


def test_who_lacks_a_seed_is_not_the_best_and_is_compared_over_what_it_has():
    shown = above_the_best({"a": {0: 1.0, 1: 2.0, 2: 3.0}, "b": {0: 0.5, 1: 1.6}, "c": {0: 0.5}, "d": {}})
    assert shown["a"] == "best"
    assert shown["b"].startswith("-0.45 +- ")
    assert (shown["c"], shown["d"]) == ("", "")
    assert above_the_best({"a": {0: 1.0}}) == {"a": ""}

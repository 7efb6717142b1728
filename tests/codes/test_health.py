"""Surveys: all patterns when there are few, an honest sample when there are many."""

import math

import numpy as np
import pytest

from gcdl.codes import GradientCode, add_up, fractional_repetition, uncoded
from gcdl.codes.health import patterns, sampled_patterns, survey
from gcdl.errors import ParameterError


def test_a_small_code_is_looked_at_in_every_pattern():
    found = survey(fractional_repetition(4, 4, stragglers=1), 1, np.random.default_rng(0))
    assert (found.patterns, found.exhaustive) == (4, True)
    assert found.worst_error < 1e-12
    assert found.worst_gain == pytest.approx(found.mean_gain) == pytest.approx(math.sqrt(0.5 + 1.0))
    assert found.error_standard_error == found.gain_standard_error == 0.0


def test_worst_and_mean_differ_where_patterns_do():
    # Two of four are missing: 4 patterns lose nothing, 2 lose a group, which is two shards.
    found = survey(fractional_repetition(4, 4, stragglers=1), 2, np.random.default_rng(0))
    assert found.patterns == math.comb(4, 2)
    assert found.worst_error == pytest.approx(math.sqrt(2))
    assert found.mean_error == pytest.approx(2 * math.sqrt(2) / 6)
    assert found.worst_gain == pytest.approx(math.sqrt(2))


def test_a_sample_says_how_uncertain_its_means_are():
    n, lost = 12, 4
    code = GradientCode(np.diag(np.arange(1.0, n + 1)), decoder=add_up)
    truth = survey(code, lost, np.random.default_rng(0), limit=math.comb(n, lost))
    assert truth.exhaustive
    misses = []
    for seed in range(60):
        found = survey(code, lost, np.random.default_rng(seed), limit=100)
        assert (found.patterns, found.exhaustive) == (100, False)
        assert found.worst_error <= truth.worst_error + 1e-12
        misses.append((found.mean_error - truth.mean_error) / found.error_standard_error)
    assert 0.6 < np.std(misses) < 1.5
    assert abs(np.mean(misses)) < 4 / math.sqrt(60)


def test_nobody_and_everybody_missing():
    none = survey(uncoded(3, 3), 0, np.random.default_rng(0))
    assert (none.worst_error, none.patterns) == (0.0, 1)
    everybody = survey(uncoded(3, 3), 3, np.random.default_rng(0))
    assert everybody.worst_error == pytest.approx(math.sqrt(3))
    assert everybody.worst_gain == 0.0


def test_patterns_have_the_size_asked_for_and_are_all_different():
    every = list(patterns(6, 2))
    assert len({mask.tobytes() for mask in every}) == len(every) == 15
    assert all(mask.sum() == 4 for mask in every)
    assert all(mask.sum() == 4 for mask in sampled_patterns(6, 2, np.random.default_rng(0), 20))


@pytest.mark.parametrize(
    ("lost", "limit", "message"), [(-1, 10, "between 0 and n = 3"), (4, 10, "lost = 4"), (1, 0, "limit = 0")]
)
def test_out_of_range_is_refused(lost, limit, message):
    with pytest.raises(ParameterError, match=message):
        survey(uncoded(3, 3), lost, np.random.default_rng(0), limit=limit)

"""A run that diverges says so; one that learns, however noisily, does not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gcdl.config import parse
from gcdl.training.loss_trend import LossTrend
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint, resume
from tests.conftest import Heard


def warnings(losses, final=None):
    trend = LossTrend()
    found = [trend.add(step, loss) for step, loss in enumerate(losses)]
    return [warning for warning in [*found, trend.end(final)] if warning is not None]


def test_a_loss_that_falls_is_no_divergence():
    rng = np.random.default_rng(0)
    for _ in range(20):
        noisy = 2.3 * np.exp(-np.arange(200) / 40) * rng.lognormal(0.0, 0.3, 200) + 1e-9
        assert warnings(noisy.tolist(), 0.02) == []


def test_one_unlucky_minibatch_and_rounding_near_zero_are_no_divergence():
    assert warnings([1.0, 0.5, 0.1, 0.05, 0.02, 0.02, 0.02, 0.3, 0.02, 0.02, 0.02], 0.02) == []
    assert warnings([1.0, *[1e-12] * 10, *[1e-10] * 10], 1e-10) == []


def test_a_loss_that_ends_above_where_it_began_is_named_with_both():
    (only,) = warnings([1.0, 1.1, 1.2, 1.3], 1.4)
    assert "ends at 1.4, above the 1 that it began with; lower optimizer.lr" in only
    (only,) = warnings([1.0, 1.0, 1.0, 1.1, 1.1, 1.4, 1.4, 1.4, 1.4, 1.4])
    assert "ends at 1.4," in only


def test_a_first_minibatch_that_was_a_lucky_one_is_no_divergence():
    assert warnings([36.0, 40.1, 39.2, 43.7, 38.5, 41.0, 39.0], 40.3) == []


def test_a_loss_that_rises_to_ten_times_its_best_is_named_once_with_the_step():
    (only,) = warnings([1.0, *[0.01] * 5, *[0.2] * 20], 0.2)
    assert only.startswith("step 8: the training loss has risen from 0.01, its best, to 0.124")


def test_no_number_is_left_to_the_error_that_it_is():
    assert warnings([1.0, math.nan, math.inf], 0.5) == []
    assert warnings([], None) == []


DIVERGING = """
workers = 4
steps = 40
[problem]
kind = "linear_regression"
features = 20
[optimizer]
lr = 2.2
[run]
checkpoint_every = 30
"""


@pytest.mark.parametrize(("lr", "count"), [(2.2, 2), (0.1, 0)])
def test_a_run_that_diverges_says_so_on_screen_and_in_its_summary(tmp_path, lr, count):
    watcher = Heard()
    summary = simulate(StartingPoint(parse(DIVERGING, [f"optimizer.lr={lr}"]), tmp_path / "run"), watcher)
    found = [warning for warning in summary.warnings if "the training loss" in warning]
    assert len(found) == count
    assert [line for line in watcher.lines if "the training loss" in line] == [f"warning: {warning}" for warning in found]


def test_a_resumed_run_is_judged_as_a_whole(tmp_path):
    whole = simulate(StartingPoint(parse(DIVERGING), tmp_path / "whole"), Heard())
    simulate(StartingPoint(parse(DIVERGING, ["steps=30"]), tmp_path / "run"), Heard())
    resumed = simulate(resume(tmp_path / "run", ["steps=40"]), Heard())
    assert resumed.warnings == whole.warnings

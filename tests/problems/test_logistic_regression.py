"""Logistic regression's coded gradient is the weighted sum of its shards' gradients, as torch's cross-entropy has them."""

import numpy as np
import pytest
from torch.nn.functional import binary_cross_entropy_with_logits

from gcdl.problems import LogisticRegression, linear_model
from tests.problems.conftest import point, shard_gradient


def make(k=4, seed=2, *, features=11, samples=30, **params):
    return LogisticRegression(k, seed, features=features, samples=samples, **params)


@pytest.mark.parametrize("stacked", [1, 700, 1 << 18])
@pytest.mark.parametrize("batch_size", [0, 1, 7])
def test_the_coded_gradient_is_the_weighted_sum_however_it_is_cut_into_passes(batch_size, stacked, finish, monkeypatch):
    monkeypatch.setattr(linear_model, "_STACKED", stacked)
    problem = make(batch_size=batch_size)
    parameters, shards, weights = point(problem), np.arange(4), np.array([1.0, 0.1, -0.3, 2.0])
    gradient, loss, yielded = finish(problem.gradient(problem.load(shards), shards, weights), parameters, 6)
    parts = [shard_gradient(problem, binary_cross_entropy_with_logits, parameters, shard, 6) for shard in shards]
    np.testing.assert_allclose(gradient, sum(w * p[0] for w, p in zip(weights, parts, strict=True)), atol=5e-6)
    assert loss == pytest.approx(sum(w * p[1] for w, p in zip(weights, parts, strict=True)), rel=1e-5)
    assert sum(yielded) == 4


def test_labels_follow_the_true_log_odds():
    problem = make(k=1, features=5, samples=100_000, signal=2.0)
    shard = problem.load(np.array([0]))[0]
    odds = shard.X.astype(np.float64) @ problem._truth
    assert set(np.unique(shard.y)) == {0.0, 1.0}
    bins = np.digitize(odds, [-2.0, -0.5, 0.5, 2.0])
    for part in range(5):
        inside = bins == part
        expected, spread = np.mean(1.0 / (1.0 + np.exp(-odds[inside]))), 0.5 / np.sqrt(inside.sum())
        assert shard.y[inside].mean() == pytest.approx(expected, abs=4 * spread)


def test_extreme_scores_neither_overflow_nor_lose_the_loss():
    problem = make()
    z, y = np.array([1e30, -1e30, 200.0, -200.0], dtype=np.float32), np.array([1.0, 0.0, 0.0, 1.0], dtype=np.float32)
    np.testing.assert_allclose(problem.losses(z, y), [0.0, 0.0, 200.0, 200.0])
    np.testing.assert_allclose(problem.slopes(z, y), [0.0, 0.0, 1.0, -1.0])
    assert problem.accuracy(z, y) == 0.5


def test_training_starts_at_log_two_and_evaluation_has_an_accuracy():
    problem = make(samples=500, signal=4.0)
    found = problem.evaluator().evaluate(problem.initial_parameters(), train=True)
    assert found.train_loss == pytest.approx(np.log(2.0))
    truth = problem.evaluator().evaluate(problem._truth, train=False)
    assert truth.train_loss is None
    assert truth.test_loss < 0.5 * np.log(2.0) + 0.1
    assert truth.test_accuracy > 0.7

"""Linear regression's coded gradient is the weighted sum of its shards' gradients, and nothing else."""

import numpy as np
import pytest
import torch

from gcdl.errors import ParameterError
from gcdl.problems import LinearRegression, linear_model
from tests.problems.conftest import point, shard_gradient


def mean_loss(z, y):
    return 0.5 * torch.mean((z - y) ** 2)


def make(k=4, seed=2, *, features=11, samples=30, **params):
    return LinearRegression(k, seed, features=features, samples=samples, **params)


def coded(problem, shards, weights):
    shards = np.array(shards)
    return problem.gradient(problem.load(shards), shards, np.array(weights))


@pytest.mark.parametrize("batch_size", [0, 1, 7, 30, 99])
@pytest.mark.parametrize(("shards", "weights"), [([2], [1.0]), ([0, 3], [0.5, -2.0]), ([0, 1, 2, 3], [1.0, 0.1, -0.3, 2.0])])
def test_the_coded_gradient_is_the_weighted_sum_of_shard_gradients(batch_size, shards, weights, finish):
    problem = make(batch_size=batch_size)
    parameters = point(problem)
    gradient, loss, yielded = finish(coded(problem, shards, weights), parameters, 6)
    parts = [shard_gradient(problem, mean_loss, parameters, shard, 6) for shard in shards]
    np.testing.assert_allclose(gradient, sum(w * p[0] for w, p in zip(weights, parts, strict=True)), atol=5e-6)
    assert loss == pytest.approx(sum(w * p[1] for w, p in zip(weights, parts, strict=True)), rel=1e-5)
    assert sum(yielded) == len(shards)


def test_all_shards_together_are_the_full_batch_gradient(finish):
    problem = make(k=5)
    parameters = point(problem)
    data = problem.load(np.arange(5))
    X = np.concatenate([data[j].X for j in range(5)]).astype(np.float64)
    y = np.concatenate([data[j].y for j in range(5)]).astype(np.float64)
    gradient, loss, _ = finish(coded(problem, range(5), [1.0] * 5), parameters, 0)
    residual = X @ parameters - y
    np.testing.assert_allclose(gradient, X.T @ residual / len(y), atol=1e-5)
    assert loss == pytest.approx(0.5 * (residual**2).mean(), rel=1e-5)
    assert problem.evaluator().evaluate(parameters, train=True).train_loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("batch_size", [0, 7])
def test_two_holders_of_a_shard_agree_to_the_bit(batch_size, finish):
    one, other = make(batch_size=batch_size), make(batch_size=batch_size)
    parameters = point(one)
    alone = coded(one, [2], [1.0])
    among = other.gradient(other.load(np.array([0, 2, 3])), np.array([2]), np.array([1.0]))
    for step in range(3):
        first, second = finish(alone, parameters, step), finish(among, parameters.copy(), step)
        assert first[0].tobytes() == second[0].tobytes()
        assert first[1] == second[1]


def test_a_worker_draws_the_samples_of_its_shards_and_no_others():
    problem = make()
    samples = problem.load(np.array([3, 1]))
    assert set(samples) == {1, 3}
    assert all(shard.X.shape == (30, 11) and shard.y.shape == (30,) for shard in samples.values())
    assert all(shard.X.dtype == shard.y.dtype == np.float32 for shard in samples.values())


def test_a_shard_is_a_function_of_seed_and_number():
    drawn = {
        (seed, k, j): make(k=k, seed=seed).load(np.array([j]))[j].X.tobytes() for seed in (0, 1) for k in (2, 5) for j in (0, 1)
    }
    assert len(set(drawn.values())) == 4
    assert all(drawn[seed, 2, j] == drawn[seed, 5, j] for seed in (0, 1) for j in (0, 1))


def test_the_test_set_is_no_shard():
    problem = make()
    test = problem.evaluator()._test
    assert all(test.X.tobytes() != shard.X.tobytes() for shard in problem.load(np.arange(4)).values())


def test_shards_share_one_truth(finish):
    problem = make(features=5, samples=200, noise=0.0)
    shards = problem.load(np.arange(4))
    solutions = [np.linalg.lstsq(shard.X, shard.y, rcond=None)[0] for shard in shards.values()]
    for solution in solutions[1:]:
        np.testing.assert_allclose(solution, solutions[0], atol=1e-4)
    gradient, loss, _ = finish(coded(problem, [0, 1], [1.0, 1.0]), solutions[0].astype(np.float32), 0)
    assert np.abs(gradient).max() < 1e-4
    assert loss < 1e-8


def test_noise_is_the_standard_deviation_of_what_is_left_at_the_truth():
    problem = make(k=1, features=3, samples=20_000, noise=0.5)
    shard = problem.load(np.array([0]))[0]
    solution = np.linalg.lstsq(shard.X, shard.y, rcond=None)[0]
    assert (shard.X @ solution - shard.y).std() == pytest.approx(0.5, rel=4 / np.sqrt(2 * 20_000))


def test_training_starts_from_zeros_in_one_tensor():
    problem = make()
    start = problem.initial_parameters()
    assert start.dtype == np.float32
    assert start.shape == (problem.layout().size,) == (11,)
    assert not start.any()
    assert start.ctypes.data % 64 == 0
    assert problem.layout().names == ("weight",)


def test_evaluation_has_no_accuracy_and_a_training_loss_only_when_asked_for():
    problem = make()
    parameters = point(problem)
    found = problem.evaluator().evaluate(parameters, train=False)
    assert found.train_loss is None
    assert found.test_accuracy is None
    test = problem.evaluator()._test
    by_hand = 0.5 * ((test.X.astype(np.float64) @ parameters - test.y) ** 2).mean()
    assert found.test_loss == pytest.approx(by_hand, rel=1e-5)
    assert problem.evaluator().evaluate(parameters, train=True).test_loss == found.test_loss


def test_a_computation_given_up_in_between_leaves_no_trace(monkeypatch, finish):
    monkeypatch.setattr(linear_model, "_STACKED", 1)  # a pass for each shard
    problem = make()
    gradient, parameters = coded(problem, [0, 1, 2], [1.0, 1.0, 1.0]), point(problem)
    expected = finish(gradient, parameters, 5)[0].tobytes()
    stretches = gradient.compute(point(problem, 1), 4, np.empty(11, dtype=np.float32))
    next(stretches)
    next(stretches)
    stretches.close()
    assert finish(gradient, parameters, 5)[0].tobytes() == expected


def test_what_is_larger_than_memory_is_refused_before_it_is_drawn(monkeypatch):
    monkeypatch.setattr(linear_model, "physical_bytes", lambda: 4.0 * 30 * 12 + 1)
    problem = make()
    assert set(problem.load(np.array([1]))) == {1}
    problem.test()
    with pytest.raises(ParameterError, match=r"problem\.samples: 30 takes .* GB; this machine has"):
        problem.load(np.array([0, 1]))
    with pytest.raises(ParameterError, match=r"problem\.test_samples: 31 takes"):
        make(test_samples=31).test()
    with pytest.raises(ParameterError, match=r"features: 99 takes"):
        make(features=99)

"""Which samples a step uses: each sample of a shard once an epoch, and the same for every holder."""

import numpy as np
import pytest
from torch import nn
from torch.nn.functional import mse_loss

from gcdl.config import Experiment, parse
from gcdl.problems import TorchProblem
from gcdl.problems.minibatches import Minibatches, minibatch


@pytest.mark.parametrize(("size", "batch"), [(40, 8), (41, 8), (7, 3), (9, 8)])
def test_an_epoch_is_every_sample_once_and_the_next_is_shuffled_anew(size, batch):
    drawn = Minibatches(batch, "epoch", 3)
    steps = -(-size // batch)
    epochs = [np.concatenate([drawn.rows(2, size, e * steps + i) for i in range(steps)]) for e in range(4)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert tuple(Minibatches(batch, "epoch", 3).rows(1, size, 0)) != tuple(epochs[0][:batch])


def test_a_draw_depends_on_seed_shard_and_step_alone():
    steps = [(j, t) for j in range(3) for t in range(20)]
    drawn = Minibatches(8, "epoch", 3)
    expected = {key: tuple(drawn.rows(key[0], 41, key[1])) for key in steps}
    other = Minibatches(8, "epoch", 3)
    for key in np.random.default_rng(0).permutation(steps).tolist():  # a worker that skips steps, and goes back after a resume
        assert tuple(other.rows(key[0], 41, key[1])) == expected[tuple(key)]
    assert tuple(Minibatches(8, "epoch", 4).rows(0, 41, 0)) != expected[0, 0]


def test_the_whole_shard_is_the_whole_shard():
    for size in (0, 40, 41):
        assert Minibatches(size, "epoch", 0).rows(0, 40, 7) == slice(0, 40)


def test_independent_draws_are_what_they_always_were():
    assert tuple(Minibatches(8, "independent", 3).rows(2, 40, 5)) == tuple(minibatch(40, 8, 3, 2, 5))


@pytest.mark.parametrize(
    "table",
    [
        'kind = "linear_regression"\nsamples = 20\nbatch_size = 6',
        'kind = "logistic_regression"\nsamples = 20\nbatch_size = 6',
        'kind = "classifier"\nmodel = "linear"\nbatch_size = 200',
    ],
)
def test_every_problem_has_epochs_and_holders_agree(table, finish):
    def gradient(sampling, shards, step):
        problem = Experiment.of(parse(f'[problem]\n{table}\nsampling = "{sampling}"'), 3).problem
        coded = problem.gradient(problem.load(shards), shards, np.ones(len(shards)))
        start = problem.initial_parameters()
        start += np.random.default_rng(0).standard_normal(start.size).astype(np.float32) / 10
        return finish(coded, start, step)[0]

    shards = np.array([0, 1])
    for step in (0, 5):
        apart = sum(gradient("epoch", np.array([j]), step) for j in shards)
        np.testing.assert_allclose(gradient("epoch", shards, step), apart, rtol=1e-3, atol=1e-5)
        assert not np.array_equal(gradient("epoch", shards, step), gradient("independent", shards, step))


def test_an_epochs_gradients_are_that_of_the_whole_shard(finish):
    x = np.random.default_rng(0).standard_normal((24, 3))

    def gradient(**how):
        problem = TorchProblem(lambda: nn.Linear(3, 3), mse_loss, (x, x), **how).bind(2, 0)
        coded = problem.gradient(problem.load(np.array([1])), np.array([1]), np.ones(1))
        return [finish(coded, problem.initial_parameters(), step)[0] for step in range(3)]

    np.testing.assert_allclose(np.mean(gradient(batch_size=4, sampling="epoch"), axis=0), gradient(batch_size=0)[0], atol=1e-6)


@pytest.mark.parametrize("sampling", ["independent", "epoch"])
@pytest.mark.parametrize("batch", [0, 3, 8, 99])
def test_counts_are_the_lengths_of_what_is_drawn(sampling, batch):
    sizes = np.array([7, 8, 9, 41])
    drawn = Minibatches(batch, sampling, 0)
    for step in range(20):
        lengths = [len(np.arange(size)[drawn.rows(j, size, step)]) for j, size in enumerate(sizes.tolist())]
        assert drawn.counts(sizes, step).tolist() == lengths

"""A data set small enough to check by hand, registered like the real ones."""

import numpy as np
import pytest
import torch

from gcdl.problems import Classifier
from gcdl.problems.datasets import DATASETS, Dataset, Part
from gcdl.problems.minibatches import minibatch

TRAIN, TEST = 601, 1203  # no shard size divides them; more than one evaluation batch


def part(samples, seed):
    rng = np.random.default_rng(seed)
    return Part(rng.integers(0, 17, (samples, 8, 8), dtype=np.uint8), rng.integers(0, 10, samples))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Register the data set ``small`` for this test; each load makes new arrays."""

    def dataset(data):
        return Dataset("small", (8, 8), 10, 16.0, TRAIN, lambda: part(TRAIN, 1), lambda: part(TEST, 2))

    monkeypatch.setitem(DATASETS, "small", dataset)


@pytest.fixture
def classifier():
    """Make a classifier on ``small``."""

    def make(k=5, seed=3, *, hidden=(6,), **params):
        return Classifier(k, seed, dataset="small", hidden=hidden, **params)

    return make


@pytest.fixture
def finish():
    """Run a coded gradient to its end; return the gradient, the coded loss and what was yielded."""

    def run(coded, parameters, step):
        out = np.full(parameters.size, np.nan, dtype=np.float32)
        stretches, yielded = coded.compute(parameters, step, out), []
        while True:
            try:
                yielded.append(next(stretches))
            except StopIteration as done:
                return out, done.value, yielded

    return run


def point(problem, seed=0):
    """Return a point of a linear model."""
    return np.random.default_rng(seed).standard_normal(problem.features).astype(np.float32)


def shard_gradient(problem, mean_loss, parameters, shard, step):
    """Return G_j and (N_j / N) f_j of a linear model, by torch autograd in float64; ``mean_loss`` of (z, y)."""
    data = problem.load(np.array([shard]))[shard]
    batch = np.arange(problem.samples)[minibatch(problem.samples, problem.batch_size, problem.seed, shard, step)]
    w = torch.from_numpy(parameters.astype(np.float64)).requires_grad_()
    X, y = torch.from_numpy(data.X[batch]).double(), torch.from_numpy(data.y[batch]).double()
    loss = mean_loss(X @ w, y) / problem.k
    loss.backward()
    return w.grad.numpy(), loss.item()

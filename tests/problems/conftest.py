"""A data set small enough to check by hand, registered like the real ones."""

import numpy as np
import pytest

from gcdl.problems import Classifier
from gcdl.problems.datasets import DATASETS, Dataset, Part

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

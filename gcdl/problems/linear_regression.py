"""Linear regression on synthetic data: y = <x, w*> + noise, x standard normal, f = (1/2) mean (<x, w> - y)^2.

The convex test problem of the gradient-coding papers. A worker draws the samples of its own shards, and only those, from
generators keyed (seed, shard); the true w* is keyed by the seed.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gcdl.problems.base import Evaluation, Samples, minibatch
from gcdl.types import Count, IntVector, Layout, Natural, Nonnegative, Stream, Vector, Weights, aligned_vector, rng_for

_TEST_SHARD = 1 << 31  # its own key, beyond every shard's


@dataclass(frozen=True)
class _Shard:
    X: np.ndarray  # (N_j, features) float32
    y: np.ndarray  # (N_j,) float32


class LinearRegression:
    """Synthetic least squares over k shards.

    Parameters
    ----------
    features : d.
    samples : N_j, in each shard; also the size of the test set.
    noise : standard deviation of the noise in y.
    batch_size : samples per shard and step; 0: the whole shard.
    """

    def __init__(
        self,
        k: int,
        seed: int,
        *,
        features: Count = 100,
        samples: Count = 100,
        noise: Nonnegative = 0.1,
        batch_size: Natural = 0,
    ) -> None:
        self.k = k
        self.seed = seed
        self.features = features
        self.samples = samples
        self.noise = noise
        self.batch_size = batch_size
        self._truth = rng_for(seed, Stream.DATA).standard_normal(features).astype(np.float32)

    def layout(self) -> Layout:
        """Return one tensor, ``weight``."""
        return Layout(("weight",), ((self.features,),))

    def initial_parameters(self) -> Vector:
        """Return zeros."""
        return aligned_vector(self.features)

    def load(self, shards: IntVector) -> Samples:
        """Draw these shards' samples."""
        return {int(j): self.shard(int(j)) for j in shards}

    def gradient(self, samples: Samples, shards: IntVector, weights: Weights) -> _CodedGradient:
        """Return the coded gradient of these shards."""
        return _CodedGradient(self, samples, shards, weights)

    def evaluator(self) -> _Evaluator:
        """Return an evaluator that draws shards as it needs them: the training set is never held whole."""
        return _Evaluator(self)

    def save(self, parameters: Vector, path: Path) -> None:
        """Write ``{"weight": (d,)}``."""
        import torch

        torch.save({"weight": torch.from_numpy(parameters.copy())}, path)

    def shard(self, shard: int) -> _Shard:
        """Return the samples of one shard."""
        rng = rng_for(self.seed, Stream.DATA, shard)
        X = rng.standard_normal((self.samples, self.features), dtype=np.float32)
        noise = self.noise * rng.standard_normal(self.samples, dtype=np.float32)
        return _Shard(X, X @ self._truth + noise.astype(np.float32))

    def loss(self, shard: _Shard, parameters: Vector) -> float:
        """Return f_j at ``parameters``."""
        with np.errstate(all="ignore"):
            residual = shard.X @ parameters - shard.y
            return 0.5 * float(np.mean(np.square(residual, dtype=np.float64)))


class _CodedGradient:
    def __init__(self, problem: LinearRegression, samples: Samples, shards: IntVector, weights: Weights) -> None:
        self.problem = problem
        self.shards = [(int(j), float(weight), samples[int(j)]) for j, weight in zip(shards, weights, strict=True)]
        self._part = aligned_vector(problem.features)

    def compute(self, parameters: Vector, step: int, out: Vector) -> Generator[float, None, float]:
        problem = self.problem
        out.fill(0.0)
        coded_loss = 0.0
        for j, weight, shard in self.shards:
            yield 1.0
            batch = minibatch(problem.samples, problem.batch_size, problem.seed, j, step)
            X, y = shard.X[batch], shard.y[batch]
            share = weight / problem.k  # B_ij N_j / N
            with np.errstate(all="ignore"):  # whoever sends the gradient looks for NaN
                residual = X @ parameters - y
                np.dot(residual, X, out=self._part)
                self._part *= np.float32(share / len(y))
                out += self._part
                coded_loss += share * 0.5 * float(np.mean(np.square(residual, dtype=np.float64)))
        return coded_loss


class _Evaluator:
    def __init__(self, problem: LinearRegression) -> None:
        self.problem = problem
        self._test = problem.shard(_TEST_SHARD)

    def evaluate(self, parameters: Vector, *, train: bool) -> Evaluation:
        problem = self.problem
        train_loss = None
        if train:
            losses = [problem.loss(problem.shard(j), parameters) for j in range(problem.k)]
            train_loss = float(np.mean(losses))
        return Evaluation(train_loss, problem.loss(self._test, parameters), None)

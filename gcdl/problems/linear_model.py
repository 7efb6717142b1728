"""What linear and logistic regression share: synthetic samples, and a loss that sees a sample through <x, w> alone.

A worker draws the samples of its own shards, and only those, from generators keyed (seed, shard): x is standard normal, and y
depends on x through a true w*, which is keyed by the seed.

A coded gradient is that of *one* weighted loss over the stacked samples of a worker's shards, with sample weights
B_ij / (k b_j), b_j the size of shard j's minibatch: two products with a matrix for many small shards, not two for each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gcdl.errors import ParameterError
from gcdl.host.memory import physical_bytes
from gcdl.problems.base import CodedGradient, Evaluation, Samples
from gcdl.problems.local_steps import LocalSteps
from gcdl.problems.minibatches import Minibatches, Sampling
from gcdl.types import IntVector, Layout, Stream, Vector, Weights, aligned_vector, rng_for

_TEST_SHARD = 1 << 31  # its own key, beyond every shard's
_STACKED = 1 << 18
"""Numbers in one pass: smaller shards are stacked up to this size, larger ones are never copied."""


@dataclass(frozen=True)
class Shard:
    """``X``: (N_j, features) float32; ``y``: (N_j,) float32."""

    X: np.ndarray
    y: np.ndarray


class LinearModel(ABC):
    """A convex problem in one (features,) tensor, over k shards of equal size.

    Parameters
    ----------
    features : d.
    samples : N_j, in each shard.
    batch_size : samples per shard and step; 0: the whole shard.
    sampling : how minibatches are drawn; see :class:`gcdl.problems.minibatches.Minibatches`.
    test_samples : in the test set; 0: as many as in a shard.
    local : steps of a worker's own.
    """

    def __init__(
        self,
        k: int,
        seed: int,
        *,
        features: int,
        samples: int,
        batch_size: int,
        sampling: Sampling,
        test_samples: int,
        local: LocalSteps,
    ) -> None:
        self.k = k
        self.seed = seed
        self.features = features
        self.samples = samples
        self.batch_size = batch_size
        self.local = local
        self.minibatches = Minibatches(batch_size, sampling, seed)
        self.test_samples = test_samples or samples
        self._test_key = "test_samples" if test_samples else "samples"
        _check_memory("features", features, 28 * features)  # w* as it is drawn, and a worker's vectors
        self._truth = rng_for(seed, Stream.DATA).standard_normal(features).astype(np.float32)

    @abstractmethod
    def draw(self, X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw y, (samples,) float32, for X, (samples, features)."""

    @abstractmethod
    def losses(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the loss of each sample, float64, where z = <x, w>."""

    @abstractmethod
    def slopes(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the derivative of each sample's loss by z, float32."""

    def accuracy(self, z: np.ndarray, y: np.ndarray) -> float | None:
        """Return the share of samples that are classified correctly; None where nothing is classified."""
        return None

    def layout(self) -> Layout:
        """Return one tensor, ``weight``."""
        return Layout(("weight",), ((self.features,),))

    def initial_parameters(self) -> Vector:
        """Return zeros."""
        return aligned_vector(self.features)

    def load(self, shards: IntVector) -> Samples:
        """Draw these shards' samples.

        Raises
        ------
        ParameterError : they take more memory than this machine has.
        """
        _check_memory("problem.samples", self.samples, len(shards) * self._shard_bytes(self.samples))
        return {int(j): self.shard(int(j)) for j in shards}

    def gradient(self, samples: Samples, shards: IntVector, weights: Weights) -> CodedGradient:
        """Return the coded gradient of these shards."""
        shares = np.full(len(shards), 1.0 / self.k)
        return self.local.gradient(partial(_CodedGradient, self, samples), shards, weights, shares, self.features)

    def samples_used(self, step: int) -> IntVector:
        """Return how many samples a step uses of each shard, (k,)."""
        return self.local.samples_used(self.minibatches, np.full(self.k, self.samples), step)

    def evaluator(self) -> _Evaluator:
        """Return an evaluator that draws shards as it needs them: the training set is never held whole."""
        return _Evaluator(self)

    def save(self, parameters: Vector, path: Path) -> None:
        """Write ``{"weight": (d,)}``."""
        import torch

        torch.save({"weight": torch.from_numpy(parameters.copy())}, path)

    def shard(self, shard: int) -> Shard:
        """Return the samples of one shard."""
        return self._drawn(shard, self.samples)

    def test(self) -> Shard:
        """Return the samples of the test set.

        Raises
        ------
        ParameterError : they take more memory than this machine has.
        """
        _check_memory(f"problem.{self._test_key}", self.test_samples, self._shard_bytes(self.test_samples))
        return self._drawn(_TEST_SHARD, self.test_samples)

    def _shard_bytes(self, samples: int) -> int:
        return 4 * samples * (self.features + 1)

    def _drawn(self, key: int, samples: int) -> Shard:
        rng = rng_for(self.seed, Stream.DATA, key)
        X = rng.standard_normal((samples, self.features), dtype=np.float32)
        with np.errstate(all="ignore"):  # now and then BLAS sets a flag for what lies beyond a vector's end
            return Shard(X, self.draw(X, rng))

    def loss(self, shard: Shard, parameters: Vector) -> float:
        """Return f_j at ``parameters``."""
        with np.errstate(all="ignore"):
            return float(np.mean(self.losses(shard.X @ parameters, shard.y)))


class _Pass(NamedTuple):
    """Samples that are computed together: X, y, the weight of each, float32 and float64, and of how many shards they are."""

    X: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    exact: np.ndarray
    shards: float


class _CodedGradient:
    def __init__(self, problem: LinearModel, samples: Samples, shards: IntVector, weights: Weights) -> None:
        self.problem = problem
        self._part = aligned_vector(problem.features)
        loaded = [(int(j), float(weight), samples[int(j)]) for j, weight in zip(shards, weights, strict=True)]
        batch = problem.samples if problem.batch_size == 0 else min(problem.batch_size, problem.samples)
        together = max(1, _STACKED // (batch * problem.features))
        self._groups = [loaded[start : start + together] for start in range(0, len(loaded), together)]
        self._whole = [self._stack(group, 0) for group in self._groups] if batch == problem.samples else None

    def compute(self, parameters: Vector, step: int, out: Vector) -> Generator[float, None, float]:
        problem = self.problem
        coded_loss = 0.0
        for number, group in enumerate(self._passes(step)):
            yield group.shards
            with np.errstate(all="ignore"):  # whoever sends the gradient looks for NaN
                z = group.X @ parameters
                slopes = problem.slopes(z, group.y)
                slopes *= group.weights
                np.dot(slopes, group.X, out=self._part if number else out)
                if number:
                    out += self._part
                coded_loss += float(np.dot(problem.losses(z, group.y), group.exact))
        return coded_loss

    def _passes(self, step: int) -> Iterator[_Pass]:
        if self._whole is not None:
            yield from self._whole
        else:
            for group in self._groups:
                yield self._stack(group, step)

    def _stack(self, group: list[tuple[int, float, Shard]], step: int) -> _Pass:
        problem = self.problem
        batches = [problem.minibatches.rows(j, problem.samples, step) for j, _, _ in group]
        X = [shard.X[batch] for (_, _, shard), batch in zip(group, batches, strict=True)]
        y = [shard.y[batch] for (_, _, shard), batch in zip(group, batches, strict=True)]
        # B_ij N_j / N, for each sample of the batch.
        exact = np.repeat([weight / (problem.k * len(part)) for (_, weight, _), part in zip(group, y, strict=True)], len(y[0]))
        return _Pass(_joined(X), _joined(y), exact.astype(np.float32), exact, float(len(group)))


def _check_memory(key: str, value: int, nbytes: int) -> None:
    if nbytes > physical_bytes():
        raise ParameterError(f"{key}: {value} takes {nbytes / 1e9:,.0f} GB; this machine has {physical_bytes() / 1e9:,.0f} GB")


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Return the parts one after the other, on a boundary that makes every rank round alike; a single one as it is."""
    if len(parts) == 1:
        return parts[0]
    rows = sum(len(part) for part in parts)
    shape = (rows, *parts[0].shape[1:])
    joined = aligned_vector(int(np.prod(shape))).reshape(shape)
    np.concatenate(parts, out=joined)
    return joined


class _Evaluator:
    def __init__(self, problem: LinearModel) -> None:
        self.problem = problem
        self._test = problem.test()

    def evaluate(self, parameters: Vector, *, train: bool) -> Evaluation:
        problem, test = self.problem, self._test
        train_loss = None
        if train:
            losses = [problem.loss(problem.shard(j), parameters) for j in range(problem.k)]
            train_loss = float(np.mean(losses))
        with np.errstate(all="ignore"):
            accuracy = problem.accuracy(test.X @ parameters, test.y)
        return Evaluation(train_loss, problem.loss(test, parameters), accuracy)

"""Binary logistic regression on synthetic data: P(y = 1) = 1 / (1 + exp(-<x, w*>)), f = mean log(1 + exp(z)) - y z, z = <x, w>.

Convex, and with ``optimizer.weight_decay`` strongly convex. The labels are drawn, not thresholded: the loss has a minimum at a
finite w even without that, and no w classifies all samples. :mod:`gcdl.problems.linear_model` has the rest.
"""

from __future__ import annotations

import math

import numpy as np

from gcdl.problems.linear_model import LinearModel
from gcdl.problems.local_steps import LocalSteps, MakeLocal
from gcdl.problems.minibatches import Sampling
from gcdl.types import Count, Natural, Nonnegative


class LogisticRegression(LinearModel):
    """Synthetic two-class classification over k shards.

    Parameters
    ----------
    features : d.
    samples : N_j, in each shard.
    signal : standard deviation of <x, w*>, the true log-odds: 0 makes the labels coin tosses, more makes them predictable.
    batch_size : samples per shard and step; 0: the whole shard.
    sampling : how minibatches are drawn; see :class:`gcdl.problems.minibatches.Minibatches`.
    test_samples : in the test set; 0: as many as in a shard.
    local_steps, local_optimizer : steps of a worker's own; see :mod:`gcdl.problems.local_steps`.
    """

    def __init__(
        self,
        k: int,
        seed: int,
        *,
        features: Count = 100,
        samples: Count = 100,
        signal: Nonnegative = 3.0,
        batch_size: Natural = 0,
        sampling: Sampling = "independent",
        test_samples: Natural = 0,
        local_steps: int = 1,
        local_optimizer: MakeLocal | None = None,
    ) -> None:
        super().__init__(
            k,
            seed,
            features=features,
            samples=samples,
            batch_size=batch_size,
            sampling=sampling,
            test_samples=test_samples,
            local=LocalSteps(local_steps, local_optimizer),
        )
        self.signal = signal
        self._truth *= np.float32(signal / math.sqrt(features))

    def draw(self, X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw 0 or 1."""
        # float64: the threshold must not depend on how a product of float32 is rounded any more than it has to.
        odds = X.astype(np.float64) @ self._truth.astype(np.float64)
        return np.asarray(rng.random(len(X)) < _sigmoid(odds), dtype=np.float32)

    def losses(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return log(1 + exp(z)) - y z, the cross-entropy."""
        wide = z.astype(np.float64)
        return np.asarray(np.logaddexp(0.0, wide) - y * wide)

    def slopes(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return sigmoid(z) - y."""
        return np.asarray(_sigmoid(z) - y)

    def accuracy(self, z: np.ndarray, y: np.ndarray) -> float:
        """Return the share of samples on the right side of z = 0."""
        return float(np.mean((z >= 0.0) == (y > 0.5)))


def _sigmoid(z: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-z)) without overflow, in the precision of z."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)), dtype=z.dtype)

"""Linear regression on synthetic data: y = <x, w*> + noise, x and w* standard normal, f = (1/2) mean (<x, w> - y)^2.

The convex test problem of the gradient-coding papers. :mod:`gcdl.problems.linear_model` has the rest.
"""

from __future__ import annotations

import numpy as np

from gcdl.problems.linear_model import LinearModel
from gcdl.problems.local_steps import LocalSteps, MakeLocal
from gcdl.problems.minibatches import Sampling
from gcdl.types import Count, Natural, Nonnegative


class LinearRegression(LinearModel):
    """Synthetic least squares over k shards.

    Parameters
    ----------
    features : d.
    samples : N_j, in each shard.
    noise : standard deviation of the noise in y.
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
        noise: Nonnegative = 0.1,
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
        self.noise = noise

    def draw(self, X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw <x, w*> + noise."""
        noise = self.noise * rng.standard_normal(len(X), dtype=np.float32)
        return np.asarray(X @ self._truth + noise.astype(np.float32))

    def losses(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return (1/2) (z - y)^2."""
        return np.asarray(0.5 * np.square(z - y, dtype=np.float64))

    def slopes(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return z - y."""
        return np.asarray(z - y)

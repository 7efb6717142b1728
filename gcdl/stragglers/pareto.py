"""Heavy-tailed delays: P(delay > x) = (x_m / x)^shape for x >= x_m = mean (shape - 1) / shape.

The smaller the shape, the heavier the tail; at 2 and below the variance is infinite. Task times in large clusters are of
this kind (Ananthanarayanan, Ghodsi, Shenker and Stoica, *Effective Straggler Mitigation*, NSDI 2013).
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt

from gcdl.types import Nonnegative, Weights

Shape = Annotated[float, Gt(1.0), Lt(np.inf)]
"""Above 1: the mean must exist."""


class ParetoDelays:
    """Worker i sleeps a Pareto time of mean ``seconds`` and tail index ``shape``, independently."""

    def __init__(self, *, shape: Shape = 2.0, seconds: Nonnegative = 1.0) -> None:
        self.shape = shape
        self.least = seconds * (shape - 1.0) / shape

    def delays(self, n: int, rng: np.random.Generator) -> Weights:
        """Return (n,) seconds."""
        return np.asarray(self.least * np.exp(rng.standard_exponential(n) / self.shape), dtype=np.float64)

"""Slow machines: a worker's computing takes c times as long, in every step.

Over MPI a worker that has computed for x seconds then sleeps (c - 1) x. In a simulation its virtual computing time grows by as
much. The loss grows with the work, unlike a delay: a code that gives a slow machine fewer shards gains.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Lt

from gcdl.errors import ParameterError
from gcdl.stragglers.base import Delays, StepKey, check_workers
from gcdl.types import Natural

Factor = Annotated[float, Ge(1.0), Lt(np.inf)]
"""Times as long; nothing can make a machine faster."""


class SpeedFactors:
    """``workers`` compute ``factors`` times as long; all the others as fast as they can.

    Parameters
    ----------
    factors : one for each of ``workers``, or a single one for all of them.
    workers : all n when left out.

    Raises
    ------
    ParameterError : unknown workers, or another number of factors.
    """

    def __init__(self, n: int, *, factors: tuple[Factor, ...] | Factor, workers: tuple[Natural, ...] | None = None) -> None:
        chosen = tuple(range(n)) if workers is None else workers
        check_workers(chosen, n)
        if isinstance(factors, tuple) and len(factors) != len(chosen):
            raise ParameterError(f"factors: {len(factors)} for {len(chosen)} workers; give one for each, or a single number")
        self.factor = np.ones(n)
        self.factor[list(chosen)] = factors

    def delays_at(self, n: int, key: StepKey) -> Delays:
        """Return the same for every step."""
        return Delays.of(n, factor=self.factor)

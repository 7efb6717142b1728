"""Injected delays: one joint draw a step, so that every rank, and every method under comparison, meets the same ones."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from gcdl.errors import ParameterError
from gcdl.types import Stream, Weights, rng_for


class StragglerModel(Protocol):
    """Says how many seconds each worker sleeps in a step before it computes."""

    def delays(self, n: int, rng: np.random.Generator) -> Weights:
        """Return (n,) seconds; inf means that the worker does not reply in this step."""
        ...


def delays_at(model: StragglerModel, n: int, seed: int, step: int) -> Weights:
    """Return the (n,) delays of a step, in seconds, from a generator keyed by (seed, step)."""
    return model.delays(n, rng_for(seed, Stream.DELAYS, step))


def check_workers(workers: tuple[int, ...], n: int) -> None:
    """Raise ParameterError unless all ids are different and lie in 0 .. n-1."""
    for worker in workers:
        if not 0 <= worker < n:
            raise ParameterError(f"workers: there is no worker {worker}; worker ids are 0 to {n - 1}")
    if len(set(workers)) != len(workers):
        raise ParameterError(f"workers: {list(workers)} names a worker twice")

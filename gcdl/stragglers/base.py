"""Injected delays: one draw a step for all workers, so that every rank, and every method compared, meets the same delays.

A :class:`StragglerModel` draws (n,) seconds from a generator. A :class:`StepModel` also sees the step, and can make computing
slower. :func:`delays_at` asks either.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np

from gcdl.errors import ParameterError
from gcdl.types import Stream, Weights, rng_for


@dataclass(frozen=True, slots=True)
class StepKey:
    """All that the draw of a step depends on. ``place``: which part of a sum draws; empty for the first."""

    seed: int
    step: int
    place: tuple[int, ...] = ()

    def rng(self) -> np.random.Generator:
        """Return the generator of this key."""
        return rng_for(self.seed, Stream.DELAYS, self.step, *self.place)

    def at(self, step: int) -> StepKey:
        """Return the key of another step."""
        return StepKey(self.seed, step, self.place)


@dataclass(frozen=True, eq=False, slots=True)
class Delays:
    """The delays of all workers in one step; read-only.

    ``before_compute`` and ``before_send``, (n,): seconds of sleep, inf: no reply. ``factor``, (n,) >= 1: computing takes that
    many times as long.
    """

    before_compute: Weights
    before_send: Weights
    factor: Weights

    @classmethod
    def of(
        cls, n: int, *, compute: Weights | None = None, send: Weights | None = None, factor: Weights | None = None
    ) -> Delays:
        """Return delays; what is left out delays nobody."""
        parts = (
            np.zeros(n) if compute is None else compute,
            np.zeros(n) if send is None else send,
            np.ones(n) if factor is None else factor,
        )
        for part in parts:
            part.setflags(write=False)
        return cls(*parts)

    @property
    def seconds(self) -> Weights:
        """(n,) seconds of sleep, before and after computing; what ``factor`` adds is not in it."""
        return self.before_compute + self.before_send


class StragglerModel(Protocol):
    """Says how many seconds each worker sleeps in a step, independently from step to step."""

    def delays(self, n: int, rng: np.random.Generator) -> Weights:
        """Return (n,) seconds; inf means that the worker does not reply in this step."""
        ...


@runtime_checkable
class StepModel(Protocol):
    """A model that looks at the step, or makes computing slower. A draw depends on the key alone, so any rank can repeat it."""

    def delays_at(self, n: int, key: StepKey) -> Delays:
        """Return the delays of n workers in a step."""
        ...


AnyModel = StragglerModel | StepModel


def drawn(model: AnyModel, n: int, key: StepKey) -> Delays:
    """Return the delays that a model of either kind draws."""
    if isinstance(model, StepModel):
        return model.delays_at(n, key)
    return Delays.of(n, compute=np.asarray(model.delays(n, key.rng()), dtype=np.float64))


_kept = lru_cache(maxsize=4)(drawn)


def delays_at(model: AnyModel, n: int, seed: int, step: int) -> Delays:
    """Return the delays of a step. The last few draws are kept: all workers of a process share them.

    ``model`` is hashed by identity, as plain classes are.
    """
    return _kept(model, n, StepKey(seed, step))  # type: ignore[arg-type]


def check_workers(workers: tuple[int, ...], n: int) -> None:
    """Raise ParameterError unless all ids are different and lie in 0 .. n-1."""
    for worker in workers:
        if not 0 <= worker < n:
            raise ParameterError(f"workers: there is no worker {worker}; worker ids are 0 to {n - 1}")
    if len(set(workers)) != len(workers):
        raise ParameterError(f"workers: {list(workers)} names a worker twice")

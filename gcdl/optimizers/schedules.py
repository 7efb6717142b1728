"""Learning-rate schedules: step t (the first is 0) uses lr * factor(t).

A factor depends on t alone, so a run that is resumed needs to know nothing but t. Every schedule can warm up: over the
first ``warmup`` steps the factor is (t + 1) / warmup (Goyal et al. 2017), times the schedule's first one. Transformers need
that. A new schedule is a class and a line in :data:`SCHEDULES`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from gcdl.errors import ParameterError
from gcdl.types import Count, Fraction, Natural, Positive


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Base: the warm-up."""

    warmup: Natural = 0

    def __call__(self, t: int) -> float:
        """Return the factor of step ``t``."""
        if t < self.warmup:
            return (t + 1) / self.warmup * self.after(0)
        return self.after(t - self.warmup)

    @abstractmethod
    def after(self, t: int) -> float:
        """Return the factor ``t`` steps after the warm-up."""


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """Always 1."""

    def after(self, t: int) -> float:
        """Return 1."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class _Anneal(Schedule):
    """Base: from 1 to ``final`` within ``steps`` steps, warm-up included, and ``final`` after them. 0 steps: the run's."""

    steps: Natural = 0
    final: Fraction = 0.0

    def __post_init__(self) -> None:
        if self.steps and self.warmup >= self.steps:
            raise ParameterError(f"warmup: {self.warmup} steps of warm-up leave none of steps = {self.steps}")

    def part(self, t: int) -> float:
        """Return the part of the steps after the warm-up that is done at ``t``, 0 to 1."""
        return min(1.0, t / max(1, self.steps - self.warmup))


@dataclass(frozen=True, kw_only=True)
class Linear(_Anneal):
    """On a straight line."""

    def after(self, t: int) -> float:
        """Return 1 - (1 - final) part."""
        return 1.0 - (1.0 - self.final) * self.part(t)


@dataclass(frozen=True, kw_only=True)
class Cosine(_Anneal):
    """On half a cosine (Loshchilov and Hutter, ICLR 2017)."""

    def after(self, t: int) -> float:
        """Return final + (1 - final) (1 + cos(pi part)) / 2."""
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * self.part(t)))


@dataclass(frozen=True, kw_only=True)
class Step(Schedule):
    """Times ``decay`` after each ``every`` steps."""

    every: Count
    decay: Positive = 0.1

    def after(self, t: int) -> float:
        """Return decay^floor(t / every)."""
        return float(self.decay ** (t // self.every))


SCHEDULES: dict[str, Callable[..., Schedule]] = {"constant": Constant, "linear": Linear, "cosine": Cosine, "step": Step}

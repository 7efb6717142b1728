"""Finds out whether a run diverges, from its training losses: figures that look like a success must not hide it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

RISE_BOUND = 10.0
"""How many times its best the loss may rise to before a run is warned of."""
_WINDOW = 5
"""Steps whose mean is looked at: one unlucky minibatch is no divergence."""
_FLOOR = 0.01
"""Share of the first loss below which a rise is not looked at: a loss near zero goes up and down by its rounding."""
_ADVICE = "lower optimizer.lr, or set optimizer.clip_norm"


@dataclass
class LossTrend:
    """The course of a run's training loss. A checkpoint holds it, so that a resumed run is judged as a whole.

    Attributes
    ----------
    first : the loss of the first step, which is that of the initial model; None before it.
    best : the lowest mean over five steps, or the first loss if that is lower.
    recent : the losses of the last five steps.
    risen : the warning of its rise, once that has been given.
    """

    first: float | None = None
    best: float = math.inf
    recent: list[float] = field(default_factory=list)
    risen: str | None = None

    def add(self, step: int, loss: float) -> str | None:
        """Take in the loss of a step; return a warning the first time that it has risen to ten times its best."""
        if not math.isfinite(loss):
            return None
        if self.first is None:
            self.first = self.best = loss
        self.recent = [*self.recent[1 - _WINDOW :], loss]
        mean = sum(self.recent) / len(self.recent)
        if len(self.recent) == _WINDOW:
            self.best = min(self.best, mean)
        if self.risen is not None or mean <= RISE_BOUND * self.best or mean <= _FLOOR * self.first:
            return None
        self.risen = f"step {step}: the training loss has risen from {self.best:.4g}, its best, to {mean:.4g}; {_ADVICE}"
        return self.risen

    def end(self, loss: float | None) -> str | None:
        """Return a warning if the last model's training loss, None where it is not known, is above the first model's."""
        last = sum(self.recent) / len(self.recent) if loss is None and self.recent else loss
        if self.first is None or last is None or last <= self.first:
            return None
        return f"the training loss ends at {last:.4g}, above the {self.first:.4g} that it began with; {_ADVICE}"

"""Finds out whether a run diverges, from its training losses: figures that look like a success must not hide it."""

from __future__ import annotations

import math
import statistics
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
    first : the losses of the first five steps; the very first is that of the initial model.
    best : the lowest mean over five steps, or the first loss if that is lower.
    recent : the losses of the last five steps.
    risen : the warning of its rise, once that has been given.
    """

    first: list[float] = field(default_factory=list)
    best: float = math.inf
    recent: list[float] = field(default_factory=list)
    risen: str | None = None

    def add(self, step: int, loss: float) -> str | None:
        """Take in the loss of a step; return a warning the first time that it has risen to ten times its best."""
        if not math.isfinite(loss):
            return None
        if not self.first:
            self.best = loss
        if len(self.first) < _WINDOW:
            self.first = [*self.first, loss]
        self.recent = [*self.recent[1 - _WINDOW :], loss]
        mean = sum(self.recent) / len(self.recent)
        if len(self.recent) == _WINDOW:
            self.best = min(self.best, mean)
        if self.risen is not None or mean <= RISE_BOUND * self.best or mean <= _FLOOR * self.first[0]:
            return None
        self.risen = f"step {step}: the training loss has risen from {self.best:.4g}, its best, to {mean:.4g}; {_ADVICE}"
        return self.risen

    def end(self, loss: float | None) -> str | None:
        """Return a warning if the last model's training loss, ``loss`` or the mean of recent ones, is above the first model's.

        The first model's is known from one minibatch a shard. So it must be above it by twice the spread of the first losses.
        """
        if not self.first:
            return None
        last = sum(self.recent) / len(self.recent) if loss is None else loss
        if last <= self.first[0] + 2.0 * statistics.pstdev(self.first):
            return None
        return f"the training loss ends at {last:.4g}, above the {self.first[0]:.4g} that it began with; {_ADVICE}"

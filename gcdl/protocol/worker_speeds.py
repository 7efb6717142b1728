"""How fast each worker computes, learnt from the run: its seconds a shard, relative to the typical worker's in the same step.

A reply tells the seconds that its worker computed, injected slowness included, but not the seconds that it slept or waited. A
worker that was superseded tells nothing. Its time is *censored*: it would have taken longer than it had. It may have begun a
shard late, because it was still at one of the step before.

*Robust to a burst.* A worker is slow if the median of its newest 9 steps is, and has been for 30 steps: four slow steps in a
row leave no trace, and thirty are not enough. How slow it is, is the median of 30 steps (with censored ones: Kaplan and Meier,
JASA 1958; if more than half of the steps are censored at the end, the longest time that it had).
"""

from __future__ import annotations

import numpy as np

from gcdl.protocol.measurements import StepTiming
from gcdl.types import IntVector, Mask

STEPS = 30
_MEDIAN_OF = 9


class WorkerSpeeds:
    """The relative seconds a shard of n workers; 1 is typical.

    Parameters
    ----------
    n : workers.
    threshold : times as slow as the typical worker, from which on a worker is slow. It is fast again below the square root.
    """

    def __init__(self, n: int, threshold: float) -> None:
        self.threshold = threshold
        self.slow_for: IntVector = np.zeros(n, dtype=np.int64)
        """(n,): for how many steps each has been slow without a break."""
        self.fast_for: IntVector = np.zeros(n, dtype=np.int64)
        """(n,): for how many steps each has been as fast as the others."""
        self._relative = np.full((STEPS, n), np.nan)
        self._exact = np.zeros((STEPS, n), dtype=np.bool_)
        self._steps = 0
        self._missed: Mask = np.zeros(n, dtype=np.bool_)
        """Who did not reply in the last step."""

    def observe(self, timing: StepTiming, loads: IntVector, expected: Mask) -> None:
        """Take in a step; ``loads``, (n,): shards of each worker, ``expected``, (n,): whose replies might have come."""
        rows = timing.replies
        replied = np.zeros_like(expected)
        replied[rows["worker"]] = True
        working = rows["computed"] + rows["held"]
        seconds = np.full(len(loads), np.nan)
        seconds[rows["worker"]] = working / np.maximum(loads[rows["worker"]], 1)
        typical = float(np.median(seconds[replied])) if replied.any() else 0.0
        other = float(np.median(rows["received"] - timing.began - working)) if len(rows) else 0.0
        missing = expected & ~replied & (loads > 0)
        had = max(0.0, timing.waited - timing.began - other)
        seconds[missing] = had / (loads + self._missed)[missing]
        self._missed = missing
        if typical <= 0.0:
            return
        place = self._steps % STEPS
        self._relative[place], self._exact[place] = seconds / typical, replied
        self._steps += 1
        self._count(expected)

    def factor(self, worker: int) -> float:
        """Return how many times as long a worker takes for a shard, by its newest 30 steps; 1.0 if nothing is known."""
        known = ~np.isnan(self._relative[:, worker])
        times, exact = self._relative[known, worker], self._exact[known, worker]
        if not times.size:
            return 1.0
        order = np.lexsort((~exact, times))
        times, exact = times[order], exact[order]
        left = np.cumprod(1.0 - exact / np.arange(times.size, 0, -1))
        below = np.flatnonzero(left <= 0.5)
        return float(times[below[0]] if below.size else times[-1])

    def _count(self, expected: Mask) -> None:
        """Count on for how long workers have been slow, and fast."""
        newest = (self._steps - 1 - np.arange(min(self._steps, _MEDIAN_OF))) % STEPS
        relative, exact = self._relative[newest], self._exact[newest]
        # A censored time says that a worker may be slow where it is long, and never that it is fast.
        slow = (np.nan_to_num(relative) >= self.threshold).sum(axis=0) > _MEDIAN_OF // 2
        fast = (exact & (np.nan_to_num(relative, nan=np.inf) < np.sqrt(self.threshold))).sum(axis=0) > _MEDIAN_OF // 2
        self.slow_for = np.where(slow & expected, np.maximum(self.slow_for + 1, _MEDIAN_OF // 2 + 1), 0)
        self.fast_for = np.where(fast & expected, self.fast_for + 1, 0)

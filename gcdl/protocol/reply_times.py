"""How long the workers take to reply, learnt from the run: the distribution of the replies that are still missing.

A reply that came has a time, in seconds since its step began. One that the master did not wait for is *censored*: it would
have taken longer than the step's wait. The distribution is the product-limit estimate for censored times (Kaplan and Meier,
*Nonparametric Estimation from Incomplete Observations*, JASA 1958), of the newest steps, conditioned on the seconds that have
passed. Beyond the longest time seen it says that a reply does not come: whoever never waits can't know.

*Weights.* A worker's own times count fully. Those of all others together count as much as those of one worker: they say most
where a worker is new, or late in a way it was never before. *Bursts*: a worker that was late in the last step is likely to be
late in this one. So times are of two kinds, those after a step with a reply and those after one without, and times of the other
kind count a 16th.
"""

from __future__ import annotations

import numpy as np

from gcdl.types import IntVector, Mask, Matrix, Weights

_WINDOW = 64  # steps
_MOST_TIMES = 4096
_LEAST_WINDOW = 8  # steps
_OTHERS = 1.0
_OTHER_KIND = 1.0 / 16.0
_NEVER = 0.05  # the weight of a reply that does not come, among those that took longest
_ROUNDING = 1e-3  # replies that came together in one step may come so much apart, relatively, in another
_POOLED = 64  # workers, from which on all workers' times count alike


class ReplyTimes:
    """The reply times of n workers in the newest steps."""

    def __init__(self, n: int) -> None:
        window = min(_WINDOW, max(_LEAST_WINDOW, _MOST_TIMES // n))
        self._seconds = np.full((window, n), np.nan)
        self._came = np.zeros((window, n), dtype=np.bool_)
        self._was_late = np.zeros((window, n), dtype=np.bool_)
        self._late: Mask = np.zeros(n, dtype=np.bool_)
        """Who did not reply in the last step."""
        self._steps = 0
        self._sorted()

    def observe(self, seconds: Weights, waited: float, expected: Mask) -> None:
        """Take in a step.

        Parameters
        ----------
        seconds : (n,) since the step began; inf: the reply did not come, or was not waited for.
        waited : seconds until the master stopped waiting.
        expected : (n,) who might have replied.
        """
        place = self._steps % len(self._seconds)
        came = np.isfinite(seconds)
        self._seconds[place] = np.where(came, seconds, np.where(expected, waited, np.nan))
        self._came[place] = came
        self._was_late[place] = self._late
        self._late = expected & ~came
        self._steps += 1
        self._sorted()

    def arrivals(self, missing: IntVector, now: float, levels: Matrix) -> Matrix:
        """Return when the replies of these m workers come, in seconds since the step began; inf: not that anybody knows.

        ``levels``, (R, m), in (0, 1): the quantiles asked for, of each worker's distribution given that ``now`` has passed.
        """
        first = int(np.searchsorted(self._times, (1.0 - _ROUNDING) * now))
        times, came = self._times[first:], self._events[first:]
        weights = self._weights(missing, slice(first, None))
        at_risk = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1] + _NEVER
        left = np.cumprod(1.0 - weights * came / at_risk, axis=1)
        # The first time by which the share 1 - u is left at most; beyond the last: never.
        places = np.stack([np.searchsorted(-row, levels[:, i] - 1.0) for i, row in enumerate(left)], axis=1)
        return np.append(np.maximum(times, now), np.inf)[places]

    def _weights(self, missing: IntVector, part: slice) -> Matrix:
        """Return how much each time of a part of the sorted ones counts for each of these workers, (m, times)."""
        kind = np.where(self._kinds[part] == self._late[missing][:, None], 1.0, _OTHER_KIND)
        n = len(self._late)
        if n >= _POOLED:
            return np.asarray(kind, dtype=np.float64)
        own = self._workers[part] == missing[:, None]
        return np.asarray(np.where(own, 1.0, _OTHERS / max(n - 1, 1)) * kind, dtype=np.float64)

    def _sorted(self) -> None:
        """Put the times in order. At equal times replies come before censored ones, as the estimate wants it."""
        steps, workers = np.nonzero(~np.isnan(self._seconds))
        times, came = self._seconds[steps, workers], self._came[steps, workers]
        order = np.lexsort((~came, times))
        self._times, self._events = times[order], came[order]
        self._workers, self._kinds = workers[order], self._was_late[steps, workers][order]

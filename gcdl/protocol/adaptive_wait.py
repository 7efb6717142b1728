"""``wait.kind = "adaptive"``: wait as long as another reply is expected to raise the progress per second.

*Progress of a step* that is decoded with a from the arrived set A. With c = a B,

    v(A) = (sum_j c_j)^2 / (k (sum_j c_j^2 + w sum_i a_i^2 ||B_i||^2)).

This is the squared mean of the decoded gradient over its variance, as a share of that of the sum over all k shards. The shards'
gradients are taken to be independent around a common mean, and compression to add noise of variance w ||B_i||^2 to C_i. With
least squares and w = 0 it is 1 - ||a B - 1||^2 / k. Where gradients are noisy, progress is in proportion to v (McCandlish,
Kaplan, Amodei et al., *An Empirical Model of Large-Batch Training*, arXiv 1812.06162: 1 / (1 + noise scale / batch)). With SGD
of a given rate it is so however little noise there is: without a shard the step is shorter by that shard. Measured
(benchmarks/README.md, waiting.py), steps to a given loss times the mean v are the same within 5 % for 3 to 8 replies of 8.

*When to stop.* A run's progress per second is (sum of v) / (sum of seconds) over its steps. It is largest if each step waits
exactly as long as E[progress to come] exceeds r E[seconds to come], where r is that largest rate itself (the marginal value
theorem: Charnov, *Optimal Foraging*, 1976; for ratios in general: Dinkelbach, *On Nonlinear Fractional Programming*, 1967). We
take what the newest steps achieved for r: the best rule for a rate below r achieves a higher one.
The replies to come are drawn from what the run has seen (:mod:`gcdl.protocol.reply_times`), and
:func:`gcdl.protocol.wait_plan.best_plan` finds the best plan. When the plan has come to its end, the rule plans again.
Related: Xu, Neglia and Sebastianelli, *Dynamic Backup Workers for Parallel Machine Learning*, 2021, who choose the number of
replies for the next step.

*What one must wait for to know.* Times longer than the wait are never seen. No reply is worth more than (v(all) - v(A)) / r
further seconds. So the first steps, and then one in 32, wait that long: such a step loses at most the progress v(all) - v(A).

Gradients are never looked at: the times of the replies alone decide. A resumed run learns them anew, as it may be on other
machines.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from gcdl.codes import GradientCode
from gcdl.protocol.reply_times import ReplyTimes
from gcdl.protocol.wait_plan import Plan, best_plan
from gcdl.types import IntVector, Mask, Matrix, Positive, Weights

_NOISE = 0.05
"""w. Measured, by what a second replica gains: 0 under correlated dither and without compression, 0.25 under independent."""
_SCENARIOS = 64
_FIRST_STEPS = 4
_EVERY = 32
_KEPT = 0.95  # of the sums of progress and seconds, from step to step
_EXACT = 12  # workers, up to which the arrived sets of a scenario are looked at one by one
_SETS = 8  # beyond: in the order in which replies are expected, so many, and the others interpolated
_ASKED = 64  # times in a step, at most
_LATER = 1.01  # than planned: a reply may come a little later than those before
_ROUNDING = 1e-9


class Adaptive:
    """See the module. ``timeout``: seconds after which a step ends with what is there, or the run if there is nothing."""

    def __init__(self, code: GradientCode, *, timeout: Positive = 60.0) -> None:
        self.code = code
        self.timeout = timeout
        self.patience = math.inf
        """Seconds since the step began after which what has come is enough; changes as replies come."""
        self._times = ReplyTimes(code.n)
        self._levels = _spread_levels(code.n)
        self._squares = np.square(code.B).sum(axis=1)
        self._progress = self._seconds = 0.0
        self._steps = 0
        self._now = 0.0
        self._expected: Mask = np.ones(code.n, dtype=np.bool_)
        self._best = 0.0
        """The largest progress per second that this step could have had so far."""
        self._level = 0.0
        """The progress of the step for which the newest plan waits."""
        self._value = lru_cache(maxsize=1 << 16)(self._value_of)

    def passed(self, seconds: float, expected: Mask) -> None:
        """See :class:`gcdl.protocol.wait_rules.LearnsReplyTimes`."""
        self._now, self._expected = seconds, expected

    def learn(self, replied: Weights, waited: float, seconds: float, expected: Mask) -> None:
        """See :class:`gcdl.protocol.wait_rules.LearnsReplyTimes`."""
        self._times.observe(replied, waited, expected)
        self._progress = _KEPT * self._progress + self._value(np.isfinite(replied).tobytes())
        self._seconds = _KEPT * self._seconds + seconds
        self._steps += 1
        self._best = self._level = 0.0
        self.patience = math.inf

    def enough(self, arrived: Mask) -> bool:
        """Say whether to stop waiting; if not, ``patience`` says when to, if nothing else comes."""
        missing = np.flatnonzero(self._expected & ~arrived)
        if not missing.size or not arrived.any():
            return not missing.size
        value, most = self._value(arrived.tobytes()), self._value((arrived | self._expected).tobytes())
        rate = self._rate(value)
        if most <= value + _ROUNDING:
            return True
        if rate <= 0.0:
            return False
        limit = self._now + (most - value) / rate
        if self._steps < _FIRST_STEPS or self._steps % _EVERY == 0:
            self.patience = limit
            return False
        if value < self._level - _ROUNDING and self._now < self.patience:
            return False
        plan = self._plan(arrived, missing, value, rate, limit)
        if plan is None:
            return True
        self.patience, self._level = _LATER * plan.until, plan.level
        return False

    def lacking(self, arrived: Mask) -> int:
        """One; of many workers a 64th."""
        return max(1, len(arrived) // _ASKED)

    def feasible(self, alive: Mask) -> bool:
        """Ask whether each shard has a worker left."""
        return bool(self.code.B[alive].any(axis=0).all())

    def losses_left(self, alive: Mask) -> int:
        """Count the workers of the shard that has the fewest."""
        return max(0, int(np.count_nonzero(self.code.B[alive], axis=0).min()) - 1)

    def _rate(self, value: float) -> float:
        """Return r, the progress per second of the newest steps; before there are any, what this one could have had."""
        if self._now > 0.0:
            self._best = max(self._best, value / self._now)
        return self._progress / self._seconds if self._seconds > 0.0 else self._best

    def _plan(self, arrived: Mask, missing: IntVector, value: float, rate: float, limit: float) -> Plan | None:
        """Return the best plan; no reply later than ``limit`` is worth waiting for."""
        times = self._times.arrivals(missing, self._now, self._levels[:, missing])
        times[times > limit] = np.inf
        order = np.argsort(times, axis=1, kind="stable")
        values = np.full((len(times), missing.size + 1), value)
        if len(arrived) <= _EXACT:
            values[:, 1:] = self._values_of_each(arrived, missing[order])
        else:
            soonest = np.argsort(np.minimum(times, 2.0 * limit).mean(axis=0), kind="stable")
            values[:] = self._values_in_order(arrived, missing[soonest], value)
        return best_plan(np.take_along_axis(times, order, axis=1), values, self._now, rate)

    def _values_of_each(self, arrived: Mask, workers: IntVector) -> Matrix:
        """Return the progress after each reply of each scenario, (R, m), the replies coming from ``workers``, (R, m)."""
        own = int((1 << np.flatnonzero(arrived)).sum())
        sets, places = np.unique(np.bitwise_or.accumulate(1 << workers, axis=1) | own, return_inverse=True)
        masks = (sets[:, None] >> np.arange(len(arrived))) & 1 == 1
        found: Weights = np.array([self._value(mask.tobytes()) for mask in masks])
        return np.asarray(found[places.reshape(workers.shape)])

    def _values_in_order(self, arrived: Mask, workers: IntVector, value: float) -> Weights:
        """Return the progress after no reply more, and after each of these, (m + 1,), if they come in this order."""
        counts = np.unique(np.round(np.geomspace(1, workers.size, _SETS)).astype(np.int64))
        found = [value]
        for count in counts:
            more = arrived.copy()
            more[workers[:count]] = True
            found.append(self._value(more.tobytes()))
        return np.asarray(np.interp(np.arange(workers.size + 1), np.append(0, counts), found))

    def _value_of(self, mask: bytes) -> float:
        """Return v of an arrived set, (n,) bool as bytes."""
        a = self.code.decoding_vector(np.frombuffer(mask, dtype=np.bool_))
        c = self.code.coverage(a)
        total = float(c.sum())
        variance = float(c @ c) + _NOISE * float(np.square(a) @ self._squares)
        return total * total / (self.code.k * variance) if variance > 0.0 and total > 0.0 else 0.0


def _spread_levels(n: int) -> Matrix:
    """Return quantiles, (R, n): the same R for each worker, evenly spread, in orders of their own that never change."""
    rng = np.random.default_rng(0)
    middle = (np.arange(_SCENARIOS) + 0.5) / _SCENARIOS
    return np.stack([rng.permutation(middle) for _ in range(n)], axis=1)

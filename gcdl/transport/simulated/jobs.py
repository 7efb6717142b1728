"""The newest job of each worker in a simulation: when it begins, when its parts end, and when its reply is sent.

The seconds of a job are known when it begins. They are kept by worker, in arrays, so that a step costs a few operations on
arrays, however many workers there are.
"""

from __future__ import annotations

import numpy as np

from gcdl.protocol.measurements import Rows, rows_of
from gcdl.stragglers import Delays
from gcdl.types import IntVector, Weights

_ROUNDING = 1e-9  # of a shard: what a sum of seconds may be off


class Jobs:
    """One job for each of n workers.

    Attributes
    ----------
    starts : (n,) when the job begins.
    goes_on : (n,) when its process goes on that was stopped at the job's beginning.
    wakes : (n,) when its first sleep ends.
    computed : (n,) when its last shard is done.
    unit : (n,) seconds that one of its shards takes.
    busy : (n,) until when the worker is at a shard that it will not answer for, or stopped.
    """

    def __init__(self, n: int) -> None:
        self.starts, self.goes_on, self.wakes, self.computed, self.unit = (np.zeros(n) for _ in range(5))
        self.busy = np.full(n, -np.inf)
        self._replies = rows_of(n)
        """``received`` is when the reply will be sent."""
        self._replies["step"] = -1

    def supersede(self, to: IntVector, news: Weights) -> None:
        """Note that these workers hear of a newer task at these seconds: who computes finishes its shard, who sleeps stops."""
        working = (self.starts[to] < news) & (news <= self._replies["received"][to]) & (self._replies["step"][to] >= 0)
        at_shard = working & (self.wakes[to] <= news) & (news < self.computed[to])
        shards = np.ceil((news - self.wakes[to])[at_shard] / self.unit[to[at_shard]] - _ROUNDING)
        self.busy[to[at_shard]] = self.wakes[to[at_shard]] + shards * self.unit[to[at_shard]]
        stopped = working & (news < self.goes_on[to])
        self.busy[to[stopped]] = self.goes_on[to[stopped]]

    def place(self, to: IntVector, news: Weights, unit: Weights) -> None:
        """Begin jobs of these workers as soon as the news is there and they are free; ``unit``: seconds of a shard, each."""
        self.unit[to] = unit
        self.starts[to] = np.maximum(news, self.busy[to])

    def plan(self, to: IntVector, step: int, loads: IntVector, delays: Delays, silent: Weights, slept: Weights) -> Rows:
        """Find when the parts of the jobs just placed end; return their replies, ``received`` when they will be sent.

        ``loads``, (n,): shards of each worker. ``silent`` and ``slept``: seconds that faults take from each of ``to``.
        """
        self.goes_on[to] = self.starts[to] + silent
        slept = slept + delays.before_compute[to]
        self.wakes[to] = self.goes_on[to] + slept
        work = loads[to] * self.unit[to]
        self.computed[to] = self.wakes[to] + work
        held = (delays.factor[to] - 1.0) * work + delays.before_send[to]
        replies = rows_of(len(to))
        replies["worker"], replies["step"], replies["loss"] = to, step, np.nan
        replies["slept"], replies["computed"], replies["held"] = slept, work, held
        replies["received"] = self.computed[to] + held
        self._replies[to] = replies
        return replies

"""Replies on their way to the master in a simulation, in the order they arrive."""

from __future__ import annotations

import numpy as np

from gcdl.protocol.measurements import Rows, rows_of
from gcdl.transport.simulated.network import Network, Sizes
from gcdl.types import IntVector, Weights


class Arrivals:
    """What has been sent, or will be, and has not been taken in.

    Attributes
    ----------
    rows : the replies; ``received`` is when each arrives.
    free : when the master's link has taken in the last reply that was delivered.
    """

    def __init__(self) -> None:
        self.rows: Rows = rows_of(0)
        self.free = 0.0
        self._sent: Weights = np.zeros(0)
        """When each is sent."""
        self._ends: Weights = np.zeros(0)
        """When each leaves the master's link."""

    def keep_sent_before(self, news: Weights) -> None:
        """Drop replies that are to be sent after their workers hear of a newer task, ``news``, (n,)."""
        sent = self._sent < news[self.rows["worker"]]
        self.rows, self._sent, self._ends = self.rows[sent], self._sent[sent], self._ends[sent]

    def add(self, replies: Rows, network: Network, reply_bytes: Sizes, notes: float) -> None:
        """Add replies, ``received`` being when they are sent; ``notes``: seconds that the masters' notes take."""
        come = replies[np.isfinite(replies["received"])]
        rows = np.concatenate([self.rows, come])
        sent = np.concatenate([self._sent, come["received"]])
        order = np.lexsort((rows["worker"], sent))
        self.rows, self._sent = rows[order], sent[order]
        received, self._ends = network.arrivals(self._sent, reply_bytes, self.free, self.rows["worker"])
        self.rows["received"] = received + notes
        if (np.diff(received) < 0.0).any():  # replies that cross no link overtake those that do
            order = np.argsort(received, kind="stable")
            self.rows, self._sent, self._ends = self.rows[order], self._sent[order], self._ends[order]

    def take(self, count: int) -> tuple[Rows, Weights]:
        """Take in the next replies; return them, and when each leaves the master's link."""
        rows, ends = self.rows[:count], self._ends[:count]
        self.rows, self._sent, self._ends = self.rows[count:], self._sent[count:], self._ends[count:]
        self.free = max(self.free, float(ends.max()))
        return rows, ends

    def drop(self, now: float) -> IntVector:
        """Drop all; return the workers of those that had been sent by now."""
        workers: IntVector = self.rows["worker"][self._sent < now]
        self.rows, self._sent, self._ends = self.rows[:0], self._sent[:0], self._ends[:0]
        return workers

"""What things cost in a simulation: the links between the master and its workers, and the master's own work.

*Links.* Every worker has a link of ``bandwidth``; all of them end in the master's one link of ``master_bandwidth``. Links are
full duplex: the two directions don't disturb each other. A message of b bytes occupies the master's link for b /
master_bandwidth seconds, one message after the other: the model to n workers leaves in n b / master_bandwidth. It arrives
whole b / min(bandwidth, master_bandwidth) + latency seconds after its first byte left.

*Downwards* tasks queue at the master. A task that has not begun to leave when a newer one is sent is replaced by it and keeps
its place; the others queue behind, in worker order. *Upwards* the master's link serves replies in the order they reach it.

*The master* decodes its m replies in m (decode_seconds + d decode_seconds_per_coordinate) and steps in ``step_seconds``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gcdl.types import IntVector, Weights


@dataclass(frozen=True)
class Network:
    """Seconds and bytes a second; the default is a network, and a master, that take no time."""

    latency: float = 0.0
    bandwidth: float = math.inf
    master_bandwidth: float = math.inf
    decode_seconds: float = 0.0
    decode_seconds_per_coordinate: float = 0.0
    step_seconds: float = 0.0

    def transfer(self, nbytes: IntVector) -> Weights:
        """Return the seconds from each message's first byte leaving to its last one arriving, (m,) for (m,) bytes."""
        return nbytes / min(self.bandwidth, self.master_bandwidth) + self.latency

    def occupation(self, nbytes: IntVector) -> Weights:
        """Return the seconds each message occupies the master's link, (m,) for (m,) bytes."""
        return nbytes / self.master_bandwidth

    def arrivals(self, sent: Weights, nbytes: int, free: float) -> tuple[Weights, Weights]:
        """Return when messages reach the master that were ``sent``, (m,) ascending seconds, and when each leaves its link.

        ``free``: when the link is free for the first of them. First come, first served: end_k = max(reached_k, end_k-1) +
        occupation, solved for all k at once.
        """
        reached = sent + self.latency
        occupation = nbytes / self.master_bandwidth
        places = occupation * np.arange(len(sent))
        ends = np.maximum(np.maximum.accumulate(reached - places), free) + places + occupation
        return np.maximum(ends, reached + nbytes / self.bandwidth), ends

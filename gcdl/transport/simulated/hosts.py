"""Links of a job whose workers share hosts, as over MPI: what stays on a host crosses no link.

A worker on the master's host reads the model in the master's memory, and its reply is copied there. To another host a task's
content crosses the link once, to the first of its workers in the queue; the others read it there (see
:mod:`gcdl.transport.mpi.task_sender`). Their replies cross the link each by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from gcdl.transport.simulated.network import Network, Sizes, one_after_the_other
from gcdl.types import IntVector, Mask, Weights


@dataclass(frozen=True, eq=False)
class HostsNetwork(Network):
    """Seconds and bytes a second between hosts, and within one.

    Attributes
    ----------
    hosts : (n,) the host of each worker, by number; 0 is the master's.
    memory_latency, memory_bandwidth : of a message within a host.
    """

    hosts: IntVector = field(kw_only=True)
    memory_latency: float = 0.0
    memory_bandwidth: float = math.inf

    def transfer(self, together: IntVector, largest: IntVector, to: IntVector) -> Weights:
        """As over one link; who crosses none needs the seconds of a copy."""
        across = super().transfer(together, largest, to)
        latency = np.where(self.hosts[to] == 0, self.memory_latency, self.latency)
        return np.where(self._crosses(to), across, largest / self.memory_bandwidth + latency)

    def occupation(self, largest: IntVector, to: IntVector) -> Weights:
        """As over one link, of those that cross it."""
        return np.where(self._crosses(to), super().occupation(largest, to), 0.0)

    def arrivals(self, sent: Weights, size: Sizes, free: float, workers: IntVector) -> tuple[Weights, Weights]:
        """As over one link, of replies that cross it; the others are copied one after the other, and never on the link."""
        here = self.hosts[workers] == 0
        received, ends = np.empty(len(sent)), np.full(len(sent), -np.inf)
        received[~here], ends[~here] = super().arrivals(sent[~here], size, free, workers[~here])
        copy = np.full(int(here.sum()), size.largest / self.memory_bandwidth)
        received[here] = one_after_the_other(sent[here] + self.memory_latency, copy, -np.inf)
        return received, ends

    def _crosses(self, to: IntVector) -> Mask:
        """Return whose tasks cross the link: of each host but the master's the first."""
        hosts = self.hosts[to]
        first = np.zeros(len(to), dtype=np.bool_)
        first[np.unique(hosts, return_index=True)[1]] = True
        crosses: Mask = first & (hosts != 0)
        return crosses

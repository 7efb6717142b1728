"""Links of a job whose workers share hosts, as over MPI: what stays on a host crosses no link.

A worker on the master's host reads the model in the master's memory, and its reply is copied there. To another host a task's
content crosses the link once, to the first of its workers in the queue; the others read it there (see
:mod:`gcdl.transport.mpi.task_sender`). Their replies cross the link each by itself.

MPI sends to all workers at once, and so do workers. So the messages that are on the master's link at a time share it evenly, as
TCP's streams do: tasks of one step all arrive when the last of them has left, and a reply takes longer while others are on
their way too.
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
        """As over one link that all tasks share; who crosses none needs the seconds of a copy."""
        occupation = self.occupation(largest, to)
        before = (
            np.cumsum(occupation) - occupation
        )  # tasks are taken to leave one after the other, which all of them do at once
        shared = np.maximum(together / self.bandwidth, occupation.sum()) - before
        copy = largest / self.memory_bandwidth
        there = np.where(self._crosses(to), shared, shared + copy) + self.latency
        return np.where(self.hosts[to] == 0, copy + self.memory_latency, there)

    def occupation(self, largest: IntVector, to: IntVector) -> Weights:
        """As over one link, of those that cross it."""
        return np.where(self._crosses(to), super().occupation(largest, to), 0.0)

    def arrivals(self, sent: Weights, size: Sizes, free: float, workers: IntVector) -> tuple[Weights, Weights]:
        """As over one link, of replies that cross it; the others are copied one after the other, and never on the link."""
        here = self.hosts[workers] == 0
        received, ends = np.empty(len(sent)), np.full(len(sent), -np.inf)
        reached = sent[~here] + self.latency
        ends[~here] = _sharing(reached, size.largest / self.master_bandwidth, free)
        received[~here] = np.maximum(ends[~here], reached + size.together / self.bandwidth)
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


def _sharing(reached: Weights, occupation: float, free: float) -> Weights:
    """Return when m messages of equal size have crossed a link that serves all that are there at even shares of its rate.

    ``reached``, (m,) ascending; ``occupation``: seconds of a message that has the link to itself; ``free``: when the link is
    free for the first. They end in the order in which they begin. *Served* are the seconds that a message that was there from
    the beginning would have had of the link.
    """
    begins = np.maximum(reached, free).tolist()
    ends: list[float] = []
    until: list[float] = []  # served when each that has begun ends
    now = served = 0.0
    while len(ends) < len(begins):
        active = len(until) - len(ends)
        end = now + (until[len(ends)] - served) * active if active else np.inf
        begin = begins[len(until)] if len(until) < len(begins) else np.inf
        served += (min(end, begin) - now) / active if active else 0.0
        now = min(end, begin)
        if end <= begin:
            ends.append(now)
        else:
            until.append(served + occupation)
    return np.array(ends, dtype=np.float64)

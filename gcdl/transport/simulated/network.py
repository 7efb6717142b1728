"""What things cost in a simulation: the links between the masters and their workers, and the masters' own work.

*Links.* Every worker has a link of ``bandwidth``; all of them end in the master's one link of ``master_bandwidth``. Links are
full duplex: the two directions don't disturb each other. A message of b bytes occupies the master's link for b /
master_bandwidth seconds, one message after the other: the model to n workers leaves in n b / master_bandwidth. It arrives
whole b / min(bandwidth, master_bandwidth) + latency seconds after its first byte left.

*Downwards* tasks queue at the master. A task that has not begun to leave when a newer one is sent is replaced by it and keeps
its place; the others queue behind, in worker order. *Upwards* the master's link serves replies in the order they reach it.

*The master* decodes its m replies in m (decode_seconds + d decode_seconds_per_coordinate) and steps in ``step_seconds``.

*K masters* have K links and K processors, and a message is K messages, one for each slice of the model. Slices are equal up to
one BLOCK, so all masters behave alike, and only the one with the most bytes is simulated: the b of its link are those of the
largest slice, headers included; a worker's own link carries the messages of all slices, and a worker has arrived when the last
of them has. A master decodes, and steps, the coordinates of the largest slice; ``decode_seconds`` stay what they are.

*Between masters* the words are those of :mod:`gcdl.transport.mpi.master_channel`. For each reply the K - 1 slice masters send
rank 0 a note of 64 bytes. Rank 0 decides, and tells each of them the decoding vector; each answers when it has decoded; where
gradients are clipped, rank 0 tells each the norm. Each of these four takes a latency, and its bytes cross rank 0's link. That a
processor sends and receives them is taken to cost nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gcdl.types import IntVector, Weights


class Sizes(NamedTuple):
    """Bytes that a worker is sent, or sends: to all masters together, and on the link of the master that has the most."""

    together: int
    largest: int


@dataclass(frozen=True)
class Masters:
    """How K masters share the work; the default is one master.

    Attributes
    ----------
    count : K.
    share : of the coordinates, those of the largest slice.
    decision_bytes, answer_bytes : of what rank 0 tells a slice master to decode, and of the answer.
    norm_bytes : of what rank 0 tells it of the gradient; 0: nothing.
    """

    count: int = 1
    share: float = 1.0
    decision_bytes: int = 0
    answer_bytes: int = 0
    norm_bytes: int = 0


ONE_MASTER = Masters()


@dataclass(frozen=True)
class Network:
    """Seconds and bytes a second; the default is a network, and a master, that take no time."""

    latency: float = 0.0
    bandwidth: float = math.inf
    master_bandwidth: float = math.inf
    decode_seconds: float = 0.0
    decode_seconds_per_coordinate: float = 0.0
    step_seconds: float = 0.0

    def transfer(self, together: IntVector, largest: IntVector, to: IntVector) -> Weights:
        """Return the seconds from each task's first byte leaving to its last one arriving, (m,) for (m,) bytes.

        See :class:`Sizes`. ``to``, (m,): the workers, in the order in which the tasks leave.
        """
        return np.maximum(together / self.bandwidth, largest / self.master_bandwidth) + self.latency

    def occupation(self, largest: IntVector, to: IntVector) -> Weights:
        """Return the seconds each task occupies a master's link, (m,) for (m,) bytes; ``to`` as in :meth:`transfer`."""
        return largest / self.master_bandwidth

    def arrivals(self, sent: Weights, size: Sizes, free: float, workers: IntVector) -> tuple[Weights, Weights]:
        """Return when replies reach the masters that were ``sent``, (m,) ascending seconds, and when each leaves their links.

        ``free``: when the links are free for the first of them; ``workers``, (m,): whose they are.
        """
        reached = sent + self.latency
        ends = one_after_the_other(reached, np.full(len(sent), size.largest / self.master_bandwidth), free)
        return np.maximum(ends, reached + size.together / self.bandwidth), ends


def one_after_the_other(reached: Weights, occupation: Weights, free: float) -> Weights:
    """Return when each of m messages has crossed a link that serves them in the order in which they reach it.

    end_k = max(reached_k, end_k-1) + occupation_k, solved for all k at once. ``free``: when the link is free for the first.
    """
    places = np.cumsum(occupation) - occupation
    return np.asarray(np.maximum(np.maximum.accumulate(reached - places), free) + places + occupation)

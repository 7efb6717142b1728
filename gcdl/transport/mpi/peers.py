"""The processes that a master talks to: workers and spares. What has come from them, and which of them are gone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mpi4py import MPI

from gcdl.host.process_ends import ProcessEnds
from gcdl.transport.mpi.job import CONTROL_BYTES, TAG, Job
from gcdl.transport.mpi.peer import Peer
from gcdl.transport.mpi.receives import Receives
from gcdl.transport.mpi.task_sender import Lane, Lanes
from gcdl.types import Buffer, aligned_buffer

_LOOK_SECONDS = 0.2


@dataclass(frozen=True, eq=False)
class Loss:
    """A process that is gone; ``error``: what MPI said of it."""

    peer: Peer
    error: MPI.Exception | None


class Peers:
    """Workers and spares.

    Parameters
    ----------
    job : this rank is a master.
    lanes : the ways to the workers.
    workers, spares : ranks of the job.
    say : takes a line for the user.
    """

    def __init__(self, job: Job, lanes: Lanes, workers: range, spares: range, say: Callable[[str], None]) -> None:
        self._job = job
        self._lanes = lanes
        self._say = say
        self._receives = Receives()
        self._by_place: list[Peer] = []
        """All that there have been: MPI may still hold the buffers of those that are gone."""
        self._look_at = 0.0
        self._ends = ProcessEnds()
        self._next = 0
        """Whose message comes first where several come together: the places take turns."""
        self.arrived: deque[tuple[Peer, int]] = deque()
        """Whose message lies in its inbox, and of how many bytes it is, in the order they came."""
        self._read: list[Peer] = []
        """Whose message was taken since messages were last moved on; nothing is received into their inboxes yet."""
        self.losses: deque[Loss] = deque()
        """Workers that are gone, to be dealt with."""
        everyone = [self.add(i, rank, job.comm, rank) for i, rank in enumerate([*workers, *spares])]
        self.workers, self.spares = everyone[: len(workers)], everyone[len(workers) :]

    def add(self, worker: int, rank: int, comm: MPI.Comm, source: int) -> Peer:
        """Return a new process, ``source`` of ``comm``, from which messages are received; ``rank`` is what it goes by."""
        inbox = aligned_buffer(CONTROL_BYTES)
        peer = Peer(worker, rank, inbox, Lane(comm, source, worker), self._receives.add())
        self._by_place.append(peer)
        self.post(peer)
        return peer

    def everyone(self) -> Iterator[Peer]:
        """Iterate over workers and spares."""
        yield from self.workers
        yield from self.spares

    def post(self, peer: Peer) -> None:
        """Receive into the inbox, unless that is under way, or what is in it is still to be read."""
        if peer.filling or peer.reply_in_use or peer.gone:
            return
        try:
            self._receives.post(peer.place, peer.lane.comm, peer.lane.rank, TAG, peer.inbox)
            peer.filling = True
        except MPI.Exception as error:
            self.lose(peer, error)

    def note(self, peer: Peer, message: Buffer) -> None:
        """Send a message that is no task."""
        if peer.gone:
            return
        try:
            self._lanes.send(peer.lane, message)
        except MPI.Exception as error:
            self.lose(peer, error)
            return
        self.post(peer)

    def flush(self, peer: Peer) -> None:
        """Send the queued task, or have it sent as soon as the worker has begun to receive the one before."""
        try:
            self._lanes.flush(peer.lane)
        except MPI.Exception as error:
            self.lose(peer, error)

    def advance(self) -> None:
        """Move all messages on; what has come is then in :attr:`arrived`. Never blocks."""
        while self._read:
            self.post(self._read.pop())
        for lane, error in self._lanes.advance():
            self.lose(next(peer for peer in self._by_place if peer.lane is lane), error)
        tested = self._receives.test()
        if len(tested.received) > 1:
            tested.received.sort(key=lambda one: (one[0] - self._next) % len(self._by_place))
        self.arrived.extend((self._by_place[place], nbytes) for place, nbytes in tested.received)
        for place, error in tested.failed:
            self.lose(self._by_place[place], error)
        self._look_for_dead()

    def take(self) -> tuple[Peer, int]:
        """Return whose message came first, and its bytes. It lies in the inbox until messages are moved on again."""
        peer, nbytes = self.arrived.popleft()
        peer.filling = False
        self._next = peer.place + 1
        self._read.append(peer)
        return peer, nbytes

    def lose(self, peer: Peer, error: MPI.Exception | None = None) -> None:
        """Mark a process as gone."""
        if peer.gone:
            return
        peer.gone = True
        self._receives.forget(peer.place)
        self._lanes.abandon(peer.lane)
        self._job.damaged = True
        if peer in self.spares:
            self.spares.remove(peer)
            self._say(f"a spare (rank {peer.rank}, host {peer.host}) is lost")
        else:
            self.losses.append(Loss(peer, error))

    def _look_for_dead(self) -> None:
        """Mark processes as lost whose death MPI does not report.

        MPI reports a death only where a message is under way, and overlooks a process that exits by itself. So the system is
        asked about processes on this machine, and MPI about all others.
        """
        now = time.monotonic()
        if now < self._look_at or not self._job.survives:
            return
        self._look_at = now + _LOOK_SECONDS
        failed, everyone = self._job.failed(), list(self.everyone())
        for peer in everyone:
            if peer.born and not peer.watched:
                peer.watched = True
                self._ends.watch((peer.pid, peer.born))
        ended = self._ends.ended()
        for peer in everyone:
            here = peer.born and (peer.pid, peer.born) in ended
            elsewhere = not peer.born and peer.lane.comm == self._job.comm and peer.rank in failed
            if here or elsewhere:
                self.lose(peer)

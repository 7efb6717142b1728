"""How a master ends: it stops its workers, takes what still comes, waits for their goodbyes, but not for ever."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from mpi4py import MPI

from gcdl.errors import WorkerError
from gcdl.host.processes import birth
from gcdl.protocol.tasks import Reply
from gcdl.transport.mpi.backoff import Backoff
from gcdl.transport.mpi.job import LAUNCHER_SECONDS, SHUTDOWN_SECONDS, Job
from gcdl.transport.mpi.peer import Peer
from gcdl.transport.mpi.peer_messages import PeerMessages
from gcdl.transport.mpi.peers import Peers
from gcdl.transport.mpi.task_sender import Lanes


class Shutdown:
    """Ends the work of all that a master talks to.

    Parameters
    ----------
    job, peers, lanes, messages : of this master.
    say : takes a line for the user.
    """

    def __init__(self, job: Job, peers: Peers, lanes: Lanes, messages: PeerMessages, say: Callable[[str], None]) -> None:
        self._job = job
        self._peers = peers
        self._lanes = lanes
        self._messages = messages
        self._say = say

    def stop(self) -> None:
        """Say STOP."""
        for peer in self._peers.everyone():
            peer.reply_in_use = False
            if not peer.gone:
                try:
                    self._lanes.stop(peer.lane)
                except MPI.Exception as error:
                    self._peers.lose(peer, error)
            self._peers.post(peer)

    def drain(self) -> int:
        """Take what still comes until everybody has said BYE, but not for ever; return the number of replies."""
        until = time.monotonic() + SHUTDOWN_SECONDS
        dropped = 0
        backoff = Backoff()
        while not all(peer.gone for peer in self._peers.everyone()) and time.monotonic() < until:
            self._peers.advance()
            while self._peers.arrived:
                peer, nbytes = self._peers.take()
                with suppress(WorkerError):  # too late to matter
                    dropped += isinstance(self._messages.read(peer, nbytes), Reply)
                peer.reply_in_use = False
                backoff.reset()
            backoff.sleep()
        return dropped

    def give_up(self) -> list[int]:
        """Go on without workers that have not stopped in time; return which they are."""
        left = [peer for peer in self._peers.everyone() if not peer.gone]
        if left:
            self._job.damaged = True
            names = "; ".join(peer.name for peer in left)
            self._say(f"not waiting any longer for workers that have not stopped: {names}")
            self._job.unreachable = self._job.survives and not all(peer.born for peer in left)
            if self._job.unreachable:
                self._say(f"some are on other hosts: mpirun is killed if it has not ended in {LAUNCHER_SECONDS:.0f} s")
            for peer in left:
                self._end(peer)
        return [peer.worker for peer in left]

    def check_bytes(self) -> None:
        """Say whose replies have not all arrived, by the number of bytes that they sent."""
        for peer in self._peers.everyone():
            if peer.reported_bytes not in (None, peer.received_bytes):
                sent, arrived = peer.reported_bytes, peer.received_bytes
                self._say(f"worker {peer.worker} sent {sent} bytes of replies, of which {arrived} arrived")

    def _end(self, peer: Peer) -> None:
        """Kill a worker of this machine that does not stop; elsewhere, or where that would look like a failure, let it be."""
        if self._job.survives and peer.born and birth(peer.pid) == peer.born:
            with suppress(OSError):
                os.kill(peer.pid, signal.SIGKILL)

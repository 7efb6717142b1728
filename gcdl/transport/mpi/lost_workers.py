"""What happens when a worker is lost: who takes its place, and what the master loop is told."""

from __future__ import annotations

import time
from collections.abc import Callable

from mpi4py import MPI

from gcdl.errors import MessageError, WorkerLost
from gcdl.protocol.wire import Kind, bare
from gcdl.transport.mpi.job import SHUTDOWN_SECONDS
from gcdl.transport.mpi.peer import Peer
from gcdl.transport.mpi.peers import Loss, Peers
from gcdl.transport.mpi.respawn import Replacements


class LostWorkers:
    """Replaces lost workers: by a spare; if there is none, by a new process.

    Parameters
    ----------
    peers : who there is.
    run : the run's id.
    replacements : starts new processes.
    leads : whether this master decides. Another one leaves it to rank 0, which sees the loss too.
    forget : drops what is known of a worker's newest reply.
    """

    def __init__(
        self, peers: Peers, run: int, replacements: Replacements | None, *, leads: bool, forget: Callable[[int], object]
    ) -> None:
        self._peers = peers
        self._run = run
        self._replacements = replacements
        self._leads = leads
        self._forget = forget
        self._untold: list[WorkerLost] = []
        self._kept: list[object] = []
        """What MPI may still send of the first messages to new processes."""

    def deal(self) -> None:
        """Find out who takes the places of those lost since the last call, and welcome new processes that have come.

        Raises
        ------
        WorkerLost : a worker is gone; one is told with each call.
        """
        self._look_for_newcomers()
        while self._peers.losses:
            self._replace(self._peers.losses.popleft())
        if self._untold:
            raise self._untold.pop(0)

    def await_newcomers(self) -> None:
        """Before the end: who has been started must be there to be told that it is over."""
        until = time.monotonic() + SHUTDOWN_SECONDS
        while self._replacements is not None and self._replacements.pending and time.monotonic() < until:
            self._look_for_newcomers()
            time.sleep(1e-3)

    def take_place(self, successor: Peer, worker: int) -> None:
        """Let a process be a lost worker from now on.

        Raises
        ------
        MessageError : there is no such worker, or the process has a place already.
        """
        workers, spares = self._peers.workers, self._peers.spares
        if not 0 <= worker < len(workers) or successor in workers:
            raise MessageError(f"a message that says it is from worker {worker}")
        if successor in spares:
            spares.remove(successor)
        lost = workers[worker]
        lost.gone = True
        successor.worker = successor.lane.worker = worker
        successor.newest = lost.newest
        workers[worker] = successor

    def _replace(self, loss: Loss) -> None:
        """Find out who takes a lost worker's place."""
        peer = loss.peer
        self._forget(peer.worker)
        if not self._leads:
            return
        step = "before the first step" if peer.newest < 0 else f"at step {peer.newest}"
        last = f"it last answered step {peer.replied}" if peer.replied >= 0 else "it has not answered any"
        error = f" ({loss.error})" if loss.error else ""
        why = f"its process (pid {peer.pid} on {peer.host}) ended {step}; {last}{error}"
        replaced = ""
        if self._peers.spares:
            replaced = "a spare"
            self._adopt(self._peers.spares.pop(0), peer.worker)
        elif self._replacements is not None:
            replaced = "a new process" if self._replacements.begin(peer.worker, peer.host) else ""
            refusal = self._replacements.refusal(peer.host)
            why += f"; it is not replaced: {refusal}" if refusal else ""
        self._untold.append(WorkerLost(peer.worker, why, rank=peer.rank, replaced=replaced))

    def _adopt(self, successor: Peer, worker: int) -> None:
        """Tell a process to take a lost worker's place; it says READY when it has loaded the data."""
        step = self._peers.workers[worker].newest + 1
        self.take_place(successor, worker)
        self._peers.note(successor, bare(Kind.ADOPT, self._run, worker=worker, step=step))

    def _look_for_newcomers(self) -> None:
        """Give the new processes that are there the places they were started for."""
        newcomer = self._replacements.look() if self._replacements is not None else None
        if newcomer is None:
            return
        if newcomer.comm is None:
            rank = self._peers.workers[newcomer.worker].rank
            why = f"no process could be started in its place: {newcomer.why}"
            self._untold.append(WorkerLost(newcomer.worker, why, rank=rank))
            return
        assert self._replacements is not None
        newcomer.comm.Set_errhandler(MPI.ERRORS_RETURN)
        peer = self._peers.add(newcomer.worker, newcomer.rank, newcomer.comm, 0)
        if peer.gone:
            return
        try:
            self._kept += self._replacements.welcome(newcomer.comm)
        except MPI.Exception as error:
            self._peers.lose(peer, error)
        else:
            self._adopt(peer, newcomer.worker)

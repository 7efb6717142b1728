"""The transport between MPI ranks: :class:`MpiTransport` on rank 0, :func:`gcdl.transport.mpi.worker_end.serve` on the others.

How it waits. A blocking MPI call spins on a core that somebody else computes on. Here every wait tests single requests and
sleeps in between, the less the more traffic there is (:class:`gcdl.transport.mpi.backoff.Backoff`); deadlines and
cancellation come for free.

How a task supersedes another. Tasks travel by synchronous sends: one is complete when the worker has begun to receive it.
So there is never more than one task on its way to a worker, however long the worker is away; a newer one waits at the
master, always in its newest version, and a 64-byte SUPERSEDED note follows the one on its way. A worker that comes back
finds the old task, the note behind it, and receives the newest task next, without starting on the old one.

How buffers live. What goes to several workers is written once, to a buffer that all these sends share; it returns to the
pool when the last of them is complete. Each worker has its own receive buffer at the master. A worker has two: the model
it computes at lies in one while the next one lands in the other.
"""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from mpi4py import MPI

from gcdl.errors import Interrupted, MessageError, TooManyLost, WorkerError, WorkerLost
from gcdl.host.processes import birth
from gcdl.protocol.coding import CodeRow, with_row
from gcdl.protocol.ledger import Traffic
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.tasks import Joined, Loaded, Replies, Reply, Task, WorkerState
from gcdl.protocol.wire import HEADER_BYTES, Header, Kind, bare, with_state
from gcdl.transport.mpi.backoff import Backoff
from gcdl.transport.mpi.job import CONTROL_BYTES, LAUNCHER_SECONDS, SHUTDOWN_SECONDS, TAG, Job, check_size
from gcdl.transport.mpi.other_masters import OtherMasters
from gcdl.transport.mpi.peer import Peer
from gcdl.transport.mpi.peer_messages import PeerMessages
from gcdl.transport.mpi.respawn import Replacements
from gcdl.transport.mpi.shared_memory import Board
from gcdl.transport.mpi.task_sender import Lane, Lanes
from gcdl.types import Buffer, aligned_buffer

_NEWS_SECONDS = 10.0
_LOOK_SECONDS = 0.2


class MpiTransport:
    """The master's end.

    Parameters
    ----------
    job : this rank is the master, the others are the workers.
    run : the run's id, in every message.
    interrupted : asked while waiting; true raises Interrupted.
    say : takes a line for the user.
    spares : ranks beyond the workers', each to take the place of a lost one.
    replacements : starts new processes in the place of lost ones, when there is no spare.
    masters : ranks 0 .. masters - 1 are masters, the workers follow them.
    shared_memory : workers of one host may read what they are sent in each other's memory, and whole models in the master's.
    """

    def __init__(
        self,
        job: Job,
        *,
        run: int,
        interrupted: Callable[[], bool],
        say: Callable[[str], None],
        spares: int = 0,
        replacements: Replacements | None = None,
        masters: int = 1,
        shared_memory: bool = False,
    ) -> None:
        self.n = job.size - masters - spares
        self.traffic = Traffic(self.n)
        self.abandoned: list[int] = []
        """Workers that had not stopped when :meth:`close` gave up waiting."""
        self._job = job
        self.traffic.control = job.told_bytes
        self._lanes = Lanes(run, TaskFormat(self.n), self.traffic, platform.node())
        self._messages = PeerMessages(self._lanes, self.traffic, say, self._take_place, shared_memory=shared_memory)
        self._run = run
        self._interrupted = interrupted
        self._say = say
        self._status = MPI.Status()
        self._losses: list[WorkerLost] = []
        """To be raised by the next :meth:`receive`."""
        self._next = 0
        self._closed = False
        ranks = enumerate(range(masters, job.size))
        everyone = [Peer(i, rank, aligned_buffer(CONTROL_BYTES), Lane(job.comm, rank, i)) for i, rank in ranks]
        self._look_at = 0.0
        self._peers, self._spares = everyone[: self.n], everyone[self.n :]
        self._dead: list[Peer] = []
        """Those replaced: MPI may still hold their buffers."""
        self._replacements = replacements
        self._leads = job.rank == 0
        """Whether this master decides: it replaces lost workers, and ends those that do not stop."""
        self._others: OtherMasters | None = None
        self._partial: dict[int, Reply] = {}
        """Replies of which the other masters have not got all slices yet, by worker."""
        self._shared_memory = shared_memory
        self._kept: list[object] = []
        """What MPI may still send of the first messages to new processes."""
        for peer in everyone:
            self._post(peer)

    def attach(self, others: OtherMasters) -> None:
        """On rank 0: from now on a reply has come when the other masters have their slices of it too."""
        self._others = others
        others.traffic = self.traffic

    # -- the Transport protocol

    def now(self) -> float:
        """Return seconds on this machine's monotonic clock."""
        return time.monotonic()

    def send(self, worker: int, task: Task) -> None:
        """Hand a task to a worker; see the module."""
        peer = self._peers[worker]
        if peer.gone:
            return
        self._lanes.offer(peer.lane, task)
        peer.lane.idle = peer.replied == peer.newest
        peer.newest = task.step
        peer.reply_in_use, peer.awaited = False, True
        self._partial.pop(worker, None)
        self._post(peer)
        self._flush(peer)

    def load(self, state: WorkerState) -> None:
        """Hand a worker its state; the message goes before all tasks."""
        self._note(self._peers[state.worker], with_state(self._run, state.worker, state.accepted, state.saved))

    def save(self, worker: int, accepted: int) -> None:
        """Ask a worker for its state; see :class:`gcdl.protocol.transport.Transport`."""
        self._peers[worker].reply_in_use = False
        self._peers[worker].awaited = False
        self._note(self._peers[worker], bare(Kind.SAVE, self._run, worker=worker, step=accepted))

    def recode(self, worker: int, number: int, row: CodeRow, *, fresh: bool) -> bool:
        """Let a worker load the shards of a row, which it does beside its tasks."""
        self._peers[worker].reply_in_use = False
        self._peers[worker].awaited = False
        self._note(self._peers[worker], with_row(self._run, worker, number, row, fresh=fresh))
        return False

    def receive(self, until: float, at_most: int = 1) -> Replies | WorkerState | Joined | Loaded | None:
        """Return the next reply; see :class:`gcdl.protocol.transport.Transport`."""
        backoff = Backoff()
        while True:
            if self._interrupted():
                raise Interrupted("interrupted")
            if self._losses:
                raise self._losses.pop(0)
            received = self.poll()
            if received is not None:
                return Replies.of(received, self.now()) if isinstance(received, Reply) else received
            left = until - time.monotonic()
            if left <= 0.0:
                return None
            backoff.sleep(left)

    def poll(self) -> Reply | WorkerState | Joined | Loaded | None:
        """Move all messages on, and return what has come from a worker, if anything has. Never blocks."""
        self._look_for_newcomers()
        self._look_for_dead()
        for spare in list(self._spares):
            joined = self._poll(spare)
            if joined is not None:
                return joined
        whole = self._completed()
        if whole is not None:
            return whole
        for offset in range(self.n):
            peer = self._peers[(self._next + offset) % self.n]
            received = self._poll(peer)
            if isinstance(received, Reply) and peer.reply_in_use and self._others is not None:
                self._partial[peer.worker] = received
                received = self._completed()
            if received is not None:
                self._next = (peer.worker + 1) % self.n
                return received
        return None

    def _completed(self) -> Reply | None:
        """Return a reply whose slices are all there, if there is one: the other masters say what they hold."""
        if self._others is None:
            return None
        self._others.poll()
        for worker, reply in self._partial.items():
            if self._others.hold(worker, self._peers[worker].rank, reply.step):
                return self._partial.pop(worker)
        return None

    def decoded(self, replies: int) -> None:
        """The clock is real: nothing to do."""

    def stepped(self) -> None:
        """The clock is real: nothing to do."""

    def close(self) -> int:
        """Stop the workers, drain, and wait for their goodbyes, but not for ever: see ``abandoned``."""
        if self._closed:
            return 0
        self._closed = True
        if self._others is not None:
            self._others.stop()
        self._await_newcomers()
        everyone = [*self._peers, *self._spares]
        self._stop(everyone)
        dropped = self._drain(everyone)
        if self._leads:
            waiting = [peer for peer in everyone if peer.reported_bytes is not None]
            self._job.say_farewell_to([(peer.lane.comm, peer.lane.rank) for peer in waiting], self._run)
            self._give_up_on([peer for peer in everyone if not peer.gone])
        for peer in everyone:
            if peer.reported_bytes not in (None, peer.received_bytes):
                sent, arrived = peer.reported_bytes, peer.received_bytes
                self._say(f"worker {peer.worker} sent {sent} bytes of replies, of which {arrived} arrived")
        if self._others is not None:
            dropped += self._others.finish()
        return dropped

    def _stop(self, everyone: list[Peer]) -> None:
        """Say STOP."""
        for peer in everyone:
            peer.reply_in_use = False
            if not peer.gone:
                try:
                    self._lanes.stop(peer.lane)
                except MPI.Exception as error:
                    self._lost(peer, error)

    def _drain(self, everyone: list[Peer]) -> int:
        """Take what still comes until everybody has said BYE, but not for ever; return the number of replies."""
        until = time.monotonic() + SHUTDOWN_SECONDS
        dropped = 0
        backoff = Backoff()
        while not all(peer.gone for peer in everyone) and time.monotonic() < until:
            for peer in everyone:
                try:
                    received = self._poll(peer)
                except WorkerError:
                    continue  # too late to matter
                peer.reply_in_use = False
                if received is not None:
                    dropped += isinstance(received, Reply)
                    backoff.reset()
            self._look_for_dead()
            backoff.sleep()
        return dropped

    def _give_up_on(self, left: list[Peer]) -> None:
        """Go on without workers that have not stopped in time."""
        self.abandoned = [peer.worker for peer in left]
        if not left:
            return
        self._job.damaged = True
        names = "; ".join(peer.name for peer in left)
        self._say(f"not waiting any longer for workers that have not stopped: {names}")
        self._job.unreachable = self._job.survives and not all(peer.born for peer in left)
        if self._job.unreachable:
            self._say(f"some are on other hosts: mpirun is killed if it has not ended in {LAUNCHER_SECONDS:.0f} s")
        for peer in left:
            self._end(peer)

    def _end(self, peer: Peer) -> None:
        """Kill a worker of this machine that does not stop; elsewhere, or where that would look like a failure, let it be."""
        if self._job.survives and peer.born and birth(peer.pid) == peer.born:
            with suppress(OSError):
                os.kill(peer.pid, signal.SIGKILL)

    # -- start-up

    def start(
        self,
        task_format: TaskFormat,
        reply_bytes: int,
        seconds: float,
        state_bytes: int = 0,
        whole_bytes: int = 0,
        ready: Callable[[int, int], None] = lambda ready, workers: None,
    ) -> None:
        """Wait until every worker has loaded its data.

        Parameters
        ----------
        task_format : how tasks lie in memory.
        reply_bytes : the size of a reply, header included.
        seconds : how long the workers may take.
        state_bytes : the size of a compressor's state.
        whole_bytes : the size of a model, where tasks carry the whole of it; else 0.
        ready : is told how many workers are ready, of how many, whenever that changes.

        Raises
        ------
        TooManyLost : some have not within ``seconds``; says which.
        UsageError : messages would be too large for MPI.
        WorkerError, WorkerLost, Interrupted : as :meth:`receive`.
        """
        check_size(reply_bytes, "a reply")
        check_size(HEADER_BYTES + state_bytes, "the state of a worker's compressor")
        check_size(task_format.overhead_bytes + whole_bytes, "a task with the model")
        self._lanes.task_format = task_format
        self._messages.reply_bytes = reply_bytes
        self._messages.state_bytes = state_bytes
        if whole_bytes and self._shared_memory:
            try:
                self._lanes.board = Board(whole_bytes)
            except OSError as error:
                self._say(f"no shared memory for the model ({error}): it is sent to each worker")
        began = time.monotonic()
        next_news = began + _NEWS_SECONDS
        known = -1
        while True:
            count = sum(peer.ready for peer in self._peers)
            if count != known:
                ready(count, len(self._peers))
                known = count
            if count == len(self._peers):
                return
            try:
                self.receive(time.monotonic() + 0.05)
            except WorkerLost as lost:
                if not lost.replaced:
                    raise
                self._say(f"start-up: {lost}; {lost.replaced} takes its place")
            now = time.monotonic()
            missing = ", ".join(str(peer.worker) for peer in self._peers if not peer.ready)
            if missing and now > began + seconds:
                raise TooManyLost(f"start-up: workers {missing} were not ready within {seconds:g} s")
            if missing and now > next_news:
                self._say(f"start-up: waiting for workers {missing} ({now - began:.0f} s)")
                next_news = now + _NEWS_SECONDS

    def rank_of(self, worker: int) -> int:
        """Return the rank of the process that is this worker."""
        return self._peers[worker].rank

    def hosts(self) -> list[str]:
        """Return the host of each worker, known after :meth:`start`."""
        return [peer.host for peer in self._peers]

    # -- one peer

    def _post(self, peer: Peer) -> None:
        """Receive into the inbox, unless that is under way, or the reply in it is still read."""
        if peer.posted or peer.reply_in_use or peer.gone:
            return
        try:
            peer.receiving = peer.lane.comm.Irecv([peer.inbox, MPI.BYTE], source=peer.lane.rank, tag=TAG)
            peer.posted = True
        except MPI.Exception as error:
            self._lost(peer, error)

    def _poll(self, peer: Peer) -> Reply | WorkerState | Joined | Loaded | None:
        """Move what is on its way to and from a worker; return its reply, or what else the master loop has to know of."""
        if peer.gone:
            return None
        self._flush(peer)
        self._post(peer)
        if peer.gone or not peer.posted:
            return None
        try:
            if not peer.receiving.Test(self._status):
                return None
        except MPI.Exception as error:
            self._lost(peer, error)
            return None
        received = self._status.Get_count(MPI.BYTE)
        peer.posted = False
        try:
            return self._messages.understand(peer, Header.read(peer.inbox, received, self._run), received)
        except MessageError as error:
            self.traffic.foreign += 1
            self._say(f"dropped a message from {peer.name}: {error}")
            return None

    def _note(self, peer: Peer, message: Buffer) -> None:
        if peer.gone:
            return
        try:
            self._lanes.send(peer.lane, message)
        except MPI.Exception as error:
            self._lost(peer, error)
            return
        self._post(peer)

    def _flush(self, peer: Peer) -> None:
        try:
            self._lanes.flush(peer.lane)
        except MPI.Exception as error:
            self._lost(peer, error)

    def _look_for_dead(self) -> None:
        """Mark workers as lost whose death MPI does not report.

        MPI reports a death only where a message is under way, and overlooks a process that exits by itself. So the system is
        asked about processes on this machine, and MPI about all others.
        """
        now = time.monotonic()
        if not self._job.survives or now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        failed = self._job.failed()
        for peer in [*self._peers, *self._spares]:
            if not peer.gone and (
                birth(peer.pid) != peer.born if peer.born else peer.lane.comm == self._job.comm and peer.rank in failed
            ):
                self._lost(peer)

    def _lost(self, peer: Peer, error: MPI.Exception | None = None) -> None:
        """Mark a worker as lost, and find out who takes its place."""
        peer.gone = True
        self._partial.pop(peer.worker, None)
        self._lanes.abandon(peer.lane)
        self._job.damaged = True
        if peer in self._spares:
            self._spares.remove(peer)
            self._say(f"a spare (rank {peer.rank}, host {peer.host}) is lost")
            return
        step = "before the first step" if peer.newest < 0 else f"at step {peer.newest}"
        last = f"it last answered step {peer.replied}" if peer.replied >= 0 else "it has not answered any"
        why = f"its process (pid {peer.pid} on {peer.host}) ended {step}; {last}" + (f" ({error})" if error else "")
        replaced = ""
        if not self._leads:
            return  # rank 0 sees it too, and decides
        if not self._closed and self._spares:
            replaced = "a spare"
        elif not self._closed and self._replacements is not None:
            replaced = "a new process" if self._replacements.begin(peer.worker, peer.host) else ""
            refusal = self._replacements.refusal(peer.host)
            why += f"; it is not replaced: {refusal}" if refusal else ""
        self._losses.append(WorkerLost(peer.worker, why, rank=peer.rank, replaced=replaced))
        if replaced == "a spare":
            self._adopt(self._spares.pop(0), peer.worker)

    def _look_for_newcomers(self) -> None:
        """Give the new processes that are there the places they were started for."""
        newcomer = self._replacements.look() if self._replacements is not None else None
        if newcomer is None:
            return
        if newcomer.comm is None:
            why = f"no process could be started in its place: {newcomer.why}"
            self._losses.append(WorkerLost(newcomer.worker, why, rank=self._peers[newcomer.worker].rank))
            return
        assert self._replacements is not None
        newcomer.comm.Set_errhandler(MPI.ERRORS_RETURN)
        peer = Peer(newcomer.worker, newcomer.rank, aligned_buffer(CONTROL_BYTES), Lane(newcomer.comm, 0, newcomer.worker))
        self._post(peer)
        if peer.gone:
            return
        try:
            self._kept += self._replacements.welcome(newcomer.comm)
        except MPI.Exception as error:
            self._lost(peer, error)
        else:
            self._adopt(peer, newcomer.worker)

    def _await_newcomers(self) -> None:
        """Before the end: who has been started must be there to be told that it is over."""
        until = time.monotonic() + SHUTDOWN_SECONDS
        while self._replacements is not None and self._replacements.pending and time.monotonic() < until:
            self._look_for_newcomers()
            time.sleep(1e-3)

    def _adopt(self, successor: Peer, worker: int) -> None:
        """Tell a process to take a lost worker's place; it says READY when it has loaded the data."""
        step = self._peers[worker].newest + 1
        self._take_place(successor, worker)
        self._note(successor, bare(Kind.ADOPT, self._run, worker=worker, step=step))

    def _take_place(self, successor: Peer, worker: int) -> None:
        """Let a process be a lost worker from now on.

        Raises
        ------
        MessageError : there is no such worker, or the process has a place already.
        """
        if not 0 <= worker < self.n or successor in self._peers:
            raise MessageError(f"a message that says it is from worker {worker}")
        if successor in self._spares:
            self._spares.remove(successor)
        lost = self._peers[worker]
        lost.gone = True
        successor.worker = successor.lane.worker = worker
        successor.newest = lost.newest
        self._dead.append(lost)
        self._peers[worker] = successor

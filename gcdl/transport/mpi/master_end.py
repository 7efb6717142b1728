"""The transport between MPI ranks: :class:`MpiTransport` on rank 0, :func:`gcdl.transport.mpi.worker_end.serve` on the others.

How it waits. A blocking MPI call spins on a core that somebody else computes on. Here every wait tests single requests and
sleeps in between, the less the more traffic there is (:class:`gcdl.transport.mpi.job.Backoff`); deadlines and cancellation come
for free.

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
from dataclasses import dataclass, field

from mpi4py import MPI

from gcdl.errors import Interrupted, MessageError, TooManyLost, WorkerError, WorkerLost
from gcdl.host.processes import birth
from gcdl.protocol.ledger import Traffic
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.tasks import Joined, Replies, Reply, Task, WorkerState
from gcdl.protocol.wire import HEADER_BYTES, Header, Kind, bare, read_json, with_state
from gcdl.transport.mpi.job import CONTROL_BYTES, LAUNCHER_SECONDS, PART_BYTES, SHUTDOWN_SECONDS, TAG, Backoff, Job
from gcdl.transport.mpi.respawn import Replacements
from gcdl.transport.mpi.shared_memory import Address, Board
from gcdl.transport.mpi.task_sender import Lane, Lanes
from gcdl.types import Buffer, aligned_buffer

_NEWS_SECONDS = 10.0
_LOOK_SECONDS = 0.2


@dataclass(eq=False)
class _Peer:
    """What the master knows of one worker."""

    worker: int
    rank: int
    """What messages to the user call it; the lane knows where it is."""
    inbox: Buffer
    lane: Lane
    receiving: MPI.Request = field(default_factory=lambda: MPI.REQUEST_NULL)
    posted: bool = False
    held: int = -1
    """The step of the reply that lies in the inbox, if not posted."""
    newest: int = -1
    """The step of the newest task."""
    replied: int = -1
    """The step of the newest reply."""
    asked: int = -1
    """The newest step when the worker was last asked for its state: nobody reads a reply to that any more."""
    ready: bool = False
    gone: bool = False
    host: str = "?"
    pid: int = 0
    born: int = 0
    """When its process started; see gcdl.host.processes. 0: it is of another machine, or can't be seen from here."""

    @property
    def name(self) -> str:
        """How messages to the user call it."""
        return f"worker {self.worker} (rank {self.rank}, host {self.host})"


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
        shared_memory: bool = False,
    ) -> None:
        self.n = job.workers - spares
        self.traffic = Traffic(self.n)
        self.abandoned: list[int] = []
        """Workers that had not stopped when :meth:`close` gave up waiting."""
        self._job = job
        self.traffic.control = job.told_bytes
        self._lanes = Lanes(run, TaskFormat(self.n), self.traffic, platform.node())
        self._reply_bytes = HEADER_BYTES
        self._state_bytes = 0
        self._run = run
        self._interrupted = interrupted
        self._say = say
        self._status = MPI.Status()
        self._reported_bytes: dict[int, int] = {}
        self._received_bytes = [0] * job.workers
        self._losses: list[WorkerLost] = []
        """To be raised by the next :meth:`receive`."""
        self._next = 0
        self._closed = False
        everyone = [_Peer(i, i + 1, aligned_buffer(CONTROL_BYTES), Lane(job.comm, i + 1, i)) for i in range(job.workers)]
        self._look_at = 0.0
        self._peers, self._spares = everyone[: self.n], everyone[self.n :]
        self._dead: list[_Peer] = []
        """Those replaced: MPI may still hold their buffers."""
        self._replacements = replacements
        self._shared_memory = shared_memory
        self._kept: list[object] = []
        """What MPI may still send of the first messages to new processes."""
        for peer in everyone:
            self._post(peer)

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
        if not peer.posted:
            self._post(peer)
        self._flush(peer)

    def load(self, state: WorkerState) -> None:
        """Hand a worker its state; the message goes before all tasks."""
        self._note(self._peers[state.worker], with_state(self._run, state.worker, state.accepted, state.saved))

    def save(self, worker: int, accepted: int) -> None:
        """Ask a worker for its state; see :class:`gcdl.protocol.transport.Transport`."""
        self._peers[worker].asked = self._peers[worker].newest
        self._note(self._peers[worker], bare(Kind.SAVE, self._run, worker=worker, step=accepted))

    def receive(self, until: float, at_most: int = 1) -> Replies | WorkerState | Joined | None:
        """Return the next reply; see :class:`gcdl.protocol.transport.Transport`."""
        backoff = Backoff()
        while True:
            if self._interrupted():
                raise Interrupted("interrupted")
            if self._losses:
                raise self._losses.pop(0)
            self._look_for_newcomers()
            self._look_for_dead()
            for spare in list(self._spares):
                self._poll(spare)
            for offset in range(self.n):
                peer = self._peers[(self._next + offset) % self.n]
                received = self._poll(peer)
                if received is not None:
                    self._next = (peer.worker + 1) % self.n
                    return Replies.of(received, self.now()) if isinstance(received, Reply) else received
            left = until - time.monotonic()
            if left <= 0.0:
                return None
            backoff.sleep(left)

    def decoded(self, replies: int) -> None:
        """The clock is real: nothing to do."""

    def stepped(self) -> None:
        """The clock is real: nothing to do."""

    def close(self) -> int:
        """Stop the workers, drain, and wait for their goodbyes, but not for ever: see ``abandoned``."""
        if self._closed:
            return 0
        self._closed = True
        self._await_newcomers()
        everyone = [*self._peers, *self._spares]
        for peer in everyone:
            if not peer.gone:
                try:
                    self._lanes.stop(peer.lane)
                except MPI.Exception as error:
                    self._lost(peer, error)
                    continue
                if not peer.posted:
                    self._post(peer)
        until = time.monotonic() + SHUTDOWN_SECONDS
        dropped = 0
        backoff = Backoff()
        while not all(peer.gone for peer in everyone) and time.monotonic() < until:
            for peer in everyone:
                try:
                    received = self._poll(peer)
                except WorkerError:
                    continue  # too late to matter
                if received is not None:
                    dropped += isinstance(received, Reply)
                    self._post(peer)
                    backoff.reset()
            self._look_for_dead()
            backoff.sleep()
        self._job.say_farewell_to(
            [(peer.lane.comm, peer.lane.rank) for peer in everyone if peer.worker in self._reported_bytes], self._run
        )
        left = [peer for peer in everyone if not peer.gone]
        self.abandoned = [peer.worker for peer in left]
        if self.abandoned:
            self._job.damaged = True
            names = "; ".join(peer.name for peer in left)
            self._say(f"not waiting any longer for workers that have not stopped: {names}")
            self._job.unreachable = self._job.survives and not all(peer.born for peer in left)
            if self._job.unreachable:
                self._say(f"some are on other hosts: mpirun is killed if it has not ended in {LAUNCHER_SECONDS:.0f} s")
            for peer in left:
                self._end(peer)
        for worker, reported in self._reported_bytes.items():
            if reported != self._received_bytes[worker]:
                self._say(f"worker {worker} sent {reported} bytes of replies, of which {self._received_bytes[worker]} arrived")
        return dropped

    def _end(self, peer: _Peer) -> None:
        """Kill a worker of this machine that does not stop; elsewhere, or where that would look like a failure, let it be."""
        if self._job.survives and peer.born and birth(peer.pid) == peer.born:
            with suppress(OSError):
                os.kill(peer.pid, signal.SIGKILL)

    # -- start-up

    def start(
        self, task_format: TaskFormat, reply_bytes: int, seconds: float, state_bytes: int = 0, whole_bytes: int = 0
    ) -> None:
        """Wait until every worker has loaded its data.

        Parameters
        ----------
        task_format : how tasks lie in memory.
        reply_bytes : the size of a reply, header included.
        seconds : how long the workers may take.
        state_bytes : the size of a compressor's state.
        whole_bytes : the size of a model, where tasks carry the whole of it; else 0.

        Raises
        ------
        TooManyLost : some have not within ``seconds``; says which.
        WorkerError, WorkerLost, Interrupted : as :meth:`receive`.
        """
        self._lanes.task_format = task_format
        self._reply_bytes = reply_bytes
        self._state_bytes = state_bytes
        if whole_bytes and self._shared_memory:
            try:
                self._lanes.board = Board(whole_bytes)
            except OSError as error:
                self._say(f"no shared memory for the model ({error}): it is sent to each worker")
        began = time.monotonic()
        next_news = began + _NEWS_SECONDS
        while not all(peer.ready for peer in self._peers):
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

    def hosts(self) -> list[str]:
        """Return the host of each worker, known after :meth:`start`."""
        return [peer.host for peer in self._peers]

    # -- one peer

    def _post(self, peer: _Peer) -> None:
        try:
            peer.receiving = peer.lane.comm.Irecv([peer.inbox, MPI.BYTE], source=peer.lane.rank, tag=TAG)
            peer.posted = True
        except MPI.Exception as error:
            self._lost(peer, error)

    def _poll(self, peer: _Peer) -> Reply | WorkerState | Joined | None:
        """Move what is on its way to and from a worker; return its reply, or its state, if there is one."""
        if peer.gone:
            return None
        self._flush(peer)
        if peer.gone:
            return None
        if not peer.posted:
            if peer.held == peer.newest != peer.asked:
                return None  # the master still reads it
            self._post(peer)
        try:
            if not peer.receiving.Test(self._status):
                return None
        except MPI.Exception as error:
            self._lost(peer, error)
            return None
        received = self._status.Get_count(MPI.BYTE)
        peer.posted = False
        try:
            header = Header.read(peer.inbox, received, self._run)
            return self._understand(peer, header, received)
        except (MessageError, LookupError, TypeError, ValueError) as error:  # a body may lack what it should have
            self.traffic.foreign += 1
            self._say(f"dropped a message from {peer.name}: {error}")
            self._post(peer)
            return None

    def _understand(self, peer: _Peer, header: Header, received: int) -> Reply | WorkerState | Joined | None:
        if header.worker != peer.worker and header.kind is not Kind.HELLO:  # who says that may have no place yet
            raise MessageError(f"a message that says it is from worker {header.worker}")
        if header.kind is Kind.REPLY:
            if received != self._reply_bytes:
                raise MessageError(f"a reply of {received} bytes where {self._reply_bytes} were expected")
            if not peer.replied < header.step <= peer.newest:
                raise MessageError(f"a reply to step {header.step}, which was answered before, or not asked for")
            peer.replied = header.step
            self.traffic.received(peer.worker, received - HEADER_BYTES, HEADER_BYTES)
            self._received_bytes[peer.worker] += received
            peer.held = header.step
            message = peer.inbox[:received]
            return Reply(
                peer.worker, header.step, header.loss, message, header.slept, header.computed, header.held, header.encoded,
                header.clipped,
            )  # fmt: skip
        self.traffic.control += received
        if header.kind is Kind.STATE:
            first, last = header.offset, header.offset + header.body_bytes
            if not 0 <= first < last <= self._state_bytes:
                raise MessageError(f"bytes {first} to {last} of a state of {self._state_bytes}")
            peer.held = -1
            return WorkerState(peer.worker, header.step, peer.inbox[HEADER_BYTES:received], header.offset)
        body = read_json(header, peer.inbox)
        if header.kind is Kind.HELLO:
            peer.host, peer.pid, born = str(body["host"]), int(body["pid"]), int(body["born"])
            peer.born = born if peer.host == platform.node() and birth(peer.pid) == born else 0
            self._post(peer)
            return None
        if header.kind is Kind.READY:
            peer.ready = True
            peer.lane.held = int(body["version"])
            if self._shared_memory:
                self._lanes.reads(peer.lane, peer.host)
                peer.lane.board = Address(*body["board"]) if body["board"] else None
            peer.inbox = aligned_buffer(
                max(self._reply_bytes, HEADER_BYTES + min(self._state_bytes, PART_BYTES), CONTROL_BYTES)
            )
            self._post(peer)
            return Joined(peer.worker, peer.name)
        if header.kind is Kind.LACKING:
            if body["wrong"]:
                self.traffic.resent[peer.worker] += 1
                self._say(f"{peer.name}, step {header.step}: its copy of the model is not the master's; it is sent a new one")
            if not body["reads"]:
                self._say(f"{peer.name} can't read the memory of others on its host; it is sent all itself")
                self._lanes.reads(peer.lane, "")
            self._lanes.again(peer.lane, int(body["version"]))
            self._post(peer)
            return None
        if header.kind is Kind.BYE:
            self._reported_bytes[peer.worker] = int(body["uplink_bytes"])
            if body["foreign"]:
                self.traffic.foreign += int(body["foreign"])
                self._say(f"{peer.name} dropped {body['foreign']} messages that were not of this run, or damaged")
            peer.gone = True
            return None
        if header.kind is Kind.ERROR:
            peer.host = str(body.get("host", peer.host))
            self._post(peer)
            where = peer.name if header.step < 0 else f"{peer.name}, step {header.step}"
            raise WorkerError(
                f"{where}: {body['message']}" if body["traceback"] else f"{body['message']} [{peer.name}]",
                worker=peer.worker,
                traceback=body["traceback"],
                exit_code=int(body["exit_code"]),
            )
        raise MessageError(f"a {header.kind.name} message from a worker")
        self._post(peer)
        return None

    def _note(self, peer: _Peer, message: Buffer) -> None:
        if peer.gone:
            return
        try:
            self._lanes.send(peer.lane, message)
        except MPI.Exception as error:
            self._lost(peer, error)
            return
        if not peer.posted:
            self._post(peer)

    def _flush(self, peer: _Peer) -> None:
        try:
            self._lanes.flush(peer.lane)
        except MPI.Exception as error:
            self._lost(peer, error)

    def _look_for_dead(self) -> None:
        """Write off whose death no message tells: nothing is expected from one who has answered, and MPI overlooks an exit.

        Of processes on this machine the system is asked, of others MPI.
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

    def _lost(self, peer: _Peer, error: MPI.Exception | None = None) -> None:
        """Write a worker off."""
        peer.gone = True
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
        peer = _Peer(newcomer.worker, newcomer.rank, aligned_buffer(CONTROL_BYTES), Lane(newcomer.comm, 0, newcomer.worker))
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

    def _adopt(self, successor: _Peer, worker: int) -> None:
        """Tell a process to take a lost worker's place; it says READY when it has loaded the data."""
        lost = self._peers[worker]
        successor.worker = successor.lane.worker = worker
        successor.newest = lost.newest
        self._dead.append(lost)
        self._peers[worker] = successor
        self._received_bytes[worker] = 0
        self._note(successor, bare(Kind.ADOPT, self._run, worker=worker, step=lost.newest + 1))

"""The transport between MPI ranks: :class:`MpiTransport` on rank 0, :func:`serve` on the others.

How it waits. A blocking MPI call spins on a core that somebody else computes on. Here every wait tests single requests and
sleeps in between (:class:`Backoff`), the less the more traffic there is; deadlines and cancellation come for free.

How a task supersedes another. Tasks travel by synchronous sends: one is complete when the worker has begun to receive it.
So there is never more than one task on its way to a worker, however long the worker is away; a newer one waits at the
master, always in its newest version, and a 64-byte SUPERSEDED note follows the one on its way. A worker that comes back
finds the old task, the note behind it, and receives the newest task next, without starting on the old one.

How buffers live. A model version is written once to a wire buffer that all sends of that version share; it returns to the
pool when the last of them is complete. Each worker has its own receive buffer at the master. A worker has two: the model
it computes at lies in one while the next one lands in the other.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import mpi4py
import numpy as np

# With this thread level Open MPI over TCP does not deadlock when a rank dies in the middle of a large message.
mpi4py.rc.thread_level = "serialized"
from mpi4py import MPI  # noqa: E402

from gcdl.errors import (  # noqa: E402
    GcdlError,
    Interrupted,
    MasterGone,
    MessageError,
    TooManyLost,
    WorkerError,
    WorkerLost,
)
from gcdl.messages import HEADER_BYTES, Header, Kind, Reply, Task, TaskFormat, bare, read_json, with_json  # noqa: E402
from gcdl.transport.base import Traffic  # noqa: E402
from gcdl.types import Buffer, aligned_buffer  # noqa: E402
from gcdl.worker import Encode, Pause, Sleep, Worker  # noqa: E402

_TAG = 7
_CONTROL_BYTES = 1 << 16  # room for a traceback, however short the replies are
_TRACEBACK_CHARACTERS = _CONTROL_BYTES // 8  # a character takes up to six bytes of JSON
_SHUTDOWN_SECONDS = 5.0
_NEWS_SECONDS = 10.0


class Backoff:
    """Sleeps between polls: 20 microseconds, doubling to 1 ms; in a long wait up to a twentieth of it, at most 5 ms.

    The sleep is what a poll costs (25 microseconds of a core on the machine measured; the test itself 0.2).
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """There was traffic: poll fast again."""
        self._seconds = 20e-6
        self._waited = 0.0

    def sleep(self, at_most: float = 1.0) -> None:
        """Sleep a little, longer each time, never longer than ``at_most`` seconds."""
        time.sleep(max(0.0, min(self._seconds, at_most)))
        self._waited += self._seconds
        self._seconds = min(2.0 * self._seconds, max(1e-3, min(self._waited / 20.0, 5e-3)))


class Job:
    """All ranks of this job, how they begin together, and how they end.

    Attributes
    ----------
    comm : the communicator; rank 0 is the master.
    damaged : a rank was lost or left behind, so that finalizing MPI together could hang.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.comm = comm
        self.damaged = False
        self._run = 0
        self._farewell: list[int] = []

    @property
    def rank(self) -> int:
        """This process's rank."""
        return int(self.comm.rank)

    @property
    def workers(self) -> int:
        """The number of workers, n."""
        return int(self.comm.size) - 1

    def broadcast(self, message: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
        """Send rank 0's JSON-ready ``message`` to all ranks, without spinning while they wait. Collective.

        Raises
        ------
        MasterGone : nothing has come after ``seconds``.
        """
        text = b"" if message is None else json.dumps(message).encode()
        size = np.array([len(text)], dtype=np.int64)
        self._complete(self.comm.Ibcast(size, root=0), seconds)
        body = np.frombuffer(text, dtype=np.uint8).copy() if self.rank == 0 else np.empty(int(size[0]), dtype=np.uint8)
        self._complete(self.comm.Ibcast(body, root=0), seconds)
        received: dict[str, Any] = json.loads(body.tobytes())
        return received

    def say_farewell_to(self, workers: list[int], run: int) -> None:
        """Note which workers wait for the master's END when the job ends."""
        self._farewell, self._run = workers, run

    def end(self, code: int) -> NoReturn:
        """Leave MPI, and the process, with an exit code."""
        sys.stdout.flush()
        sys.stderr.flush()
        sends = []
        for worker in self._farewell:
            message = bare(Kind.END, self._run, step=int(self.damaged))
            with suppress(MPI.Exception):
                sends.append((self.comm.Isend([message, MPI.BYTE], dest=worker + 1, tag=_TAG), message))
        for request, _ in sends:
            with suppress(MPI.Exception, MasterGone):
                self._complete(request, _SHUTDOWN_SECONDS)
        if self.damaged:
            os._exit(code)
        MPI.Finalize()
        sys.exit(code)  # not os._exit: MPICH takes leave of its launcher only when the process ends in the regular way

    def abandon(self) -> NoReturn:
        """Leave as one does who has lost the others: by a signal, the only way an MPI job is sure to notice."""
        sys.stdout.flush()
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    @staticmethod
    def _complete(request: MPI.Request, seconds: float) -> None:
        until = time.monotonic() + seconds
        backoff = Backoff()
        while not request.Test():
            if time.monotonic() > until:
                raise MasterGone(f"the ranks have not all come together within {seconds:g} s")
            backoff.sleep()


def world() -> Job:
    """Return the job this process was started in."""
    return Job(MPI.COMM_WORLD)


@dataclass(eq=False)
class _Wire:
    """One model version on its way, and how many sends still read it."""

    buffer: Buffer
    users: int = 0


@dataclass(eq=False)
class _Peer:
    """What the master knows of one worker."""

    worker: int
    inbox: Buffer
    receiving: MPI.Request = field(default_factory=lambda: MPI.REQUEST_NULL)
    posted: bool = False
    held: int = -1
    """The step of the reply that lies in the inbox, if not posted."""
    newest: int = -1
    """The step of the newest task."""
    sending: MPI.Request | None = None
    """The task on its way; ``wire`` is its buffer."""
    wire: _Wire | None = None
    queued: _Wire | None = None
    noted: bool = False
    """The task on its way is followed by a SUPERSEDED note already."""
    ready: bool = False
    gone: bool = False
    host: str = "?"
    pid: int = 0

    @property
    def name(self) -> str:
        """How messages to the user call it."""
        return f"worker {self.worker} (rank {self.worker + 1}, host {self.host})"


class MpiTransport:
    """The master's end.

    Parameters
    ----------
    job : this rank is the master, the others are the workers.
    run : the run's id, in every message.
    interrupted : asked while waiting; true raises Interrupted.
    say : takes a line for the user.
    """

    def __init__(
        self,
        job: Job,
        *,
        run: int,
        interrupted: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        self.n = job.workers
        self.traffic = Traffic()
        self.abandoned: list[int] = []
        """Workers that had not stopped when :meth:`close` gave up waiting."""
        self._job = job
        self._comm = job.comm
        self._format = TaskFormat(self.n, 0)
        self._inbox_bytes = HEADER_BYTES + _CONTROL_BYTES
        self._run = run
        self._interrupted = interrupted
        self._say = say
        self._status = MPI.Status()
        self._spare: list[_Wire] = []
        self._current: tuple[Task, _Wire] | None = None
        self._notes: list[tuple[MPI.Request, Buffer]] = []
        self._reported_bytes: dict[int, int] = {}
        self._received_bytes = [0] * self.n
        self._losses: list[WorkerLost] = []
        """To be raised by the next :meth:`receive`."""
        self._next = 0
        self._closed = False
        self._peers = [_Peer(worker, aligned_buffer(self._inbox_bytes)) for worker in range(self.n)]
        for peer in self._peers:
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
        if self._current is None or self._current[0] is not task:
            wire = self._spare.pop() if self._spare else _Wire(aligned_buffer(self._format.nbytes))
            self._format.write(task, self._run, wire.buffer)
            if self._current is not None:
                self._release(self._current[1])
            wire.users += 1  # as the current version
            self._current = (task, wire)
        wire = self._current[1]
        wire.users += 1
        if peer.queued is not None:
            self._release(peer.queued)
        peer.queued = wire
        peer.newest = task.step
        if not peer.posted:
            self._post(peer)
        self._flush(peer)

    def receive(self, until: float) -> Reply | None:
        """Return the next reply; see :class:`gcdl.transport.base.Transport`."""
        backoff = Backoff()
        while True:
            if self._interrupted():
                raise Interrupted("interrupted")
            if self._losses:
                raise self._losses.pop(0)
            for offset in range(self.n):
                peer = self._peers[(self._next + offset) % self.n]
                reply = self._poll(peer)
                if reply is not None:
                    self._next = (peer.worker + 1) % self.n
                    return reply
            left = until - time.monotonic()
            if left <= 0.0:
                return None
            backoff.sleep(left)

    def close(self) -> int:
        """Stop the workers, drain, and wait for their goodbyes, but not for ever: see ``abandoned``."""
        if self._closed:
            return 0
        self._closed = True
        stop = bare(Kind.STOP, self._run)
        for peer in self._peers:
            if not peer.gone:
                if peer.queued is not None:
                    self._release(peer.queued)
                    peer.queued = None
                if peer.sending is not None:
                    self._note(peer)
                self._send_control(peer, stop)
                if not peer.posted:
                    self._post(peer)
        until = time.monotonic() + _SHUTDOWN_SECONDS
        dropped = 0
        backoff = Backoff()
        while not all(peer.gone for peer in self._peers) and time.monotonic() < until:
            for peer in self._peers:
                try:
                    reply = self._poll(peer)
                except WorkerError:
                    continue  # too late to matter
                if reply is not None:
                    dropped += 1
                    self._post(peer)
                    backoff.reset()
            backoff.sleep()
        self._job.say_farewell_to(sorted(self._reported_bytes), self._run)
        self.abandoned = [peer.worker for peer in self._peers if not peer.gone]
        if self.abandoned:
            self._job.damaged = True
            names = "; ".join(self._peers[worker].name for worker in self.abandoned)
            self._say(f"not waiting any longer for workers that have not stopped: {names}")
        for worker, reported in self._reported_bytes.items():
            if reported != self._received_bytes[worker]:
                self._say(
                    f"{self._peers[worker].name} sent {reported} bytes of replies, "
                    f"of which {self._received_bytes[worker]} arrived"
                )
        return dropped

    # -- start-up

    def start(self, task_format: TaskFormat, reply_bytes: int, seconds: float) -> None:
        """Wait until every worker has loaded its data.

        Parameters
        ----------
        task_format : how tasks lie in memory.
        reply_bytes : the size of a reply, header included.
        seconds : how long the workers may take.

        Raises
        ------
        TooManyLost : some have not within ``seconds``; says which.
        WorkerError, WorkerLost, Interrupted : as :meth:`receive`.
        """
        self._format = task_format
        self._inbox_bytes = max(reply_bytes, self._inbox_bytes)
        began = time.monotonic()
        next_news = began + _NEWS_SECONDS
        while not all(peer.ready for peer in self._peers):
            self.receive(time.monotonic() + 0.05)
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
            peer.receiving = self._comm.Irecv([peer.inbox, MPI.BYTE], source=peer.worker + 1, tag=_TAG)
            peer.posted = True
        except MPI.Exception as error:
            self._lost(peer, error)

    def _poll(self, peer: _Peer) -> Reply | None:
        """Move what is on its way to and from a worker; return its reply if there is one."""
        if peer.gone:
            return None
        self._flush(peer)
        if not peer.posted:
            if peer.held == peer.newest:
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
        except MessageError as error:
            self.traffic.foreign += 1
            self._say(f"dropped a message from {peer.name}: {error}")
            self._post(peer)
            return None

    def _understand(self, peer: _Peer, header: Header, received: int) -> Reply | None:
        if header.worker != peer.worker:
            raise MessageError(f"a message that says it is from worker {header.worker}")
        if header.kind is Kind.REPLY:
            self.traffic.uplink += received
            self._received_bytes[peer.worker] += received
            peer.held = header.step
            message = peer.inbox[:received]
            return Reply(peer.worker, header.step, header.loss, message, header.slept, header.computed)
        self.traffic.control += received
        body = read_json(header, peer.inbox)
        if header.kind is Kind.READY:
            peer.ready = True
            peer.host, peer.pid = str(body.get("host")), int(body.get("pid", 0))
            peer.inbox = aligned_buffer(self._inbox_bytes)
        elif header.kind is Kind.BYE:
            self._reported_bytes[peer.worker] = int(body.get("uplink_bytes", 0))
            peer.gone = True
            return None
        elif header.kind is Kind.ERROR:
            peer.host = str(body.get("host", peer.host))
            self._post(peer)
            where = peer.name if header.step < 0 else f"{peer.name}, step {header.step}"
            raise WorkerError(
                f"{where}: {body['message']}" if body["traceback"] else f"{body['message']} [{peer.name}]",
                worker=peer.worker,
                traceback=body["traceback"],
                exit_code=int(body["exit_code"]),
            )
        else:
            raise MessageError(f"a {header.kind.name} message from a worker")
        self._post(peer)
        return None

    def _flush(self, peer: _Peer) -> None:
        """Start the queued send when the one before is complete; otherwise tell the worker not to bother with that."""
        try:
            if peer.sending is not None and peer.sending.Test():
                assert peer.wire is not None
                self._release(peer.wire)
                peer.sending = peer.wire = None
            if peer.queued is None:
                return
            if peer.sending is not None:
                self._note(peer)
                return
            peer.sending = self._comm.Issend([peer.queued.buffer, MPI.BYTE], dest=peer.worker + 1, tag=_TAG)
            self.traffic.downlink += peer.queued.buffer.size
            peer.wire, peer.queued, peer.noted = peer.queued, None, False
        except MPI.Exception as error:
            self._lost(peer, error)

    def _note(self, peer: _Peer) -> None:
        if not peer.noted:
            self._send_control(peer, bare(Kind.SUPERSEDED, self._run))
            peer.noted = True

    def _send_control(self, peer: _Peer, message: Buffer) -> None:
        self._notes = [(request, kept) for request, kept in self._notes if not self._done(request)]
        try:
            self._notes.append((self._comm.Isend([message, MPI.BYTE], dest=peer.worker + 1, tag=_TAG), message))
            self.traffic.control += message.size
        except MPI.Exception:
            return  # its receive request will tell

    @staticmethod
    def _done(request: MPI.Request) -> bool:
        try:
            return bool(request.Test())
        except MPI.Exception:
            return True

    def _release(self, wire: _Wire) -> None:
        wire.users -= 1
        if wire.users == 0:
            self._spare.append(wire)

    def _lost(self, peer: _Peer, error: MPI.Exception) -> None:
        """Write a worker off. Its buffers are not reused: MPI may still hold them."""
        peer.gone = True
        peer.queued = peer.wire = None
        self._job.damaged = True
        step = "before the first step" if peer.newest < 0 else f"at step {peer.newest}"
        self._losses.append(WorkerLost(peer.worker, f"its process (pid {peer.pid} on {peer.host}) ended {step} ({error})"))


# -- the worker's end


class _Inbox:
    """What the master sends: one receive always posted, in the buffer that the current task does not lie in."""

    def __init__(self, comm: MPI.Comm, run: int) -> None:
        self._comm = comm
        self._run = run
        self._buffers: list[Buffer] = []
        self._status = MPI.Status()
        self._header: Header | None = None
        self._which = 0

    def open(self, nbytes: int) -> None:
        """Begin to receive messages of up to ``nbytes`` bytes. Once open, it stays as it is."""
        if not self._buffers:
            self._buffers = [aligned_buffer(nbytes), aligned_buffer(nbytes)]
            self._post()

    def _post(self) -> None:
        self._request = self._comm.Irecv([self._buffers[self._which], MPI.BYTE], source=0, tag=_TAG)

    def poll(self) -> bool:
        """Say whether a message has come."""
        if self._header is None and self._request.Test(self._status):
            received = self._status.Get_count(MPI.BYTE)
            try:
                self._header = Header.read(self._buffers[self._which], received, self._run)
            except MessageError:
                self._post()
        return self._header is not None

    def take(self) -> tuple[Header, Buffer]:
        """Return the message that has come; it stays valid until the next call."""
        assert self._header is not None
        header, buffer = self._header, self._buffers[self._which]
        self._header = None
        self._which = 1 - self._which
        if header.kind is not Kind.END:
            self._post()
        return header, buffer


class _Outbox:
    """What goes to the master, kept alive until MPI has it."""

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = comm
        self._pending: list[tuple[MPI.Request, Buffer]] = []
        self.reply_bytes = 0

    def send(self, message: Buffer) -> None:
        """Start sending."""
        self._pending.append((self._comm.Isend([message, MPI.BYTE], dest=0, tag=_TAG), message))

    def empty(self) -> bool:
        """Say whether all sends are complete."""
        self._pending = [(request, kept) for request, kept in self._pending if not request.Test()]
        return not self._pending


def serve(job: Job, *, run: int, master_timeout: float, prepare: Callable[[], Worker]) -> None:
    """Be a worker until the master says STOP, and then END; the caller then ends the job.

    An exception of ``prepare`` (which loads the data) or of the work itself is sent home, and ends the whole run from there.

    Raises
    ------
    MasterGone : the master's process is gone, or it has been silent for ``master_timeout`` seconds.
    """
    me = job.rank - 1
    outbox = _Outbox(job.comm)
    inbox = _Inbox(job.comm, run)
    step = -1
    try:
        try:
            worker = prepare()
            task_format = TaskFormat(job.workers, worker.layout.size)
            inbox.open(task_format.nbytes)
            outbox.send(with_json(Kind.READY, run, me, {"host": platform.node(), "pid": os.getpid()}))
            while True:
                header, buffer = _next(inbox, outbox, master_timeout)
                if header.kind is Kind.STOP:
                    break
                if header.kind is not Kind.TASK or inbox.poll():
                    continue  # a note, or a task with something newer right behind it
                step = header.step
                _work(worker, task_format.read(header, buffer), inbox, outbox, run)
        except (MPI.Exception, MasterGone):
            raise
        except Exception as error:
            outbox.send(_confession(error, run, me, step))
            inbox.open(HEADER_BYTES)
            while _next(inbox, outbox, master_timeout)[0].kind is not Kind.STOP:
                pass
        _flush(inbox, outbox, master_timeout)
        outbox.send(with_json(Kind.BYE, run, me, {"uplink_bytes": outbox.reply_bytes}))
        header, _ = _next(inbox, outbox, master_timeout)
        while header.kind is not Kind.END:
            header, _ = _next(inbox, outbox, master_timeout)
        job.damaged = header.step != 0
    except MPI.Exception as error:
        raise MasterGone(f"worker {me}: lost the master ({error})") from error


def _next(inbox: _Inbox, outbox: _Outbox, seconds: float) -> tuple[Header, Buffer]:
    backoff = Backoff()
    until = time.monotonic() + seconds
    while not inbox.poll():
        outbox.empty()  # sends move on only while somebody looks
        if time.monotonic() > until:
            raise MasterGone(f"the master (rank 0) has been silent for {seconds:g} s")
        backoff.sleep()
    return inbox.take()


def _flush(inbox: _Inbox, outbox: _Outbox, seconds: float) -> None:
    backoff = Backoff()
    until = time.monotonic() + seconds
    while not outbox.empty():
        inbox.poll()
        if time.monotonic() > until:
            raise MasterGone(f"the master (rank 0) has not taken the last message within {seconds:g} s")
        backoff.sleep()


def _work(worker: Worker, task: Task, inbox: _Inbox, outbox: _Outbox, run: int) -> None:
    """Do one task and send the reply, unless something newer comes."""
    job = worker.handle(task)
    slept = computed = 0.0
    try:
        while True:
            began = time.perf_counter()
            try:
                pause = next(job)
            except StopIteration as done:
                reply: Reply = done.value
                break
            finally:
                computed += time.perf_counter() - began
            if isinstance(pause, Sleep):
                slept = pause.seconds
            if _superseded(pause, inbox, outbox):
                return
    finally:
        job.close()
    header = Header(Kind.REPLY, run, reply.worker, reply.step, reply.loss, slept, computed, reply.message.size - HEADER_BYTES)
    header.write(reply.message)
    outbox.send(reply.message)
    outbox.reply_bytes += reply.message.size


def _superseded(pause: Pause, inbox: _Inbox, outbox: _Outbox) -> bool:
    """Live through a pause; say whether something newer has come in it."""
    until = time.monotonic() + (pause.seconds if isinstance(pause, Sleep) else 0.0)
    backoff = Backoff()
    while not inbox.poll():
        left = until - time.monotonic()
        # The last reply must be out before it may be overwritten.
        if left <= 0.0 and (not isinstance(pause, Encode) or outbox.empty()):
            return False
        outbox.empty()
        backoff.sleep(left if left > 0.0 else 1.0)
    return True


def _confession(error: Exception, run: int, worker: int, step: int) -> Buffer:
    """Return the ERROR message for an exception: gcdl's own errors speak for themselves, others bring their traceback."""
    expected = isinstance(error, GcdlError)
    text = "" if expected else "".join(traceback.format_exception(error))
    body = {
        "message": str(error) if expected else f"{type(error).__name__}: {error}"[:1000],
        "traceback": text[-_TRACEBACK_CHARACTERS:],
        "exit_code": error.exit_code if isinstance(error, GcdlError) else WorkerError.exit_code,
        "host": platform.node(),
    }
    return with_json(Kind.ERROR, run, worker, body, step=step)

"""The master's sends: the newest task to each worker, never more than one on its way, what goes to several in one buffer.

See :mod:`gcdl.transport.mpi` for why. What a task has to bring depends on the version of the model that its worker has. That
is known here: messages to a worker arrive in order, and it takes in every one. So a message is made when it is about to be
sent, for the version that the one before it led to, and workers that are equally far share it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mpi4py import MPI

from gcdl.downlinks import UNKNOWN
from gcdl.ledger import Traffic
from gcdl.messages import Kind, Task, TaskFormat, bare
from gcdl.transport.job import TAG
from gcdl.transport.shared import REFERENCE_BYTES, Board
from gcdl.types import Buffer, aligned_buffer

_SPARE = 8
_ROOMY = 4  # times as large as need be


@dataclass(eq=False)
class Parcel:
    """A task's message, the version that it leads to, how many bytes of it are the content, and how many sends use it."""

    buffer: Buffer
    message: Buffer
    leads_to: int
    content_bytes: int
    shared_bytes: int
    users: int = 1


@dataclass(eq=False)
class Lane:
    """The way to one worker: a rank of a communicator."""

    comm: MPI.Comm
    rank: int
    worker: int
    held: int = UNKNOWN
    """The version of the model that the worker has when it has taken in all that was sent."""
    shares: bool = False
    """It reads the master's board."""
    sending: MPI.Request | None = None
    """The task on its way; ``sent`` is its message."""
    sent: Parcel | None = None
    queued: bool = False
    """The newest task goes next, when the one on its way has been received."""
    noted: bool = False
    """The task on its way is followed by a SUPERSEDED note already."""


class Lanes:
    """Everything the master sends. Methods that start or test sends raise MPI.Exception if the worker is gone."""

    def __init__(self, run: int, task_format: TaskFormat, traffic: Traffic) -> None:
        self.task_format = task_format
        self.board: Board | None = None
        self.spare: list[Buffer] = []
        """The pool: buffers that nobody reads any more."""
        self._run = run
        self._traffic = traffic
        self._task: Task | None = None
        self._parcels: dict[tuple[int, bool], Parcel] = {}
        """Of the newest task: by the version that a worker has, and whether it reads the board."""
        self._notes: list[tuple[MPI.Request, Buffer]] = []

    def offer(self, lane: Lane, task: Task) -> None:
        """Queue a task, in place of one that is queued already."""
        if task is not self._task:
            for parcel in self._parcels.values():
                self._release(parcel)
            self._parcels.clear()
            self._task = task
        lane.queued = True

    def again(self, lane: Lane) -> None:
        """Queue the newest task once more, with the whole model."""
        lane.held = UNKNOWN
        lane.queued = self._task is not None

    def flush(self, lane: Lane) -> None:
        """Start the queued send when the one before is complete; otherwise tell the worker not to bother with that."""
        if lane.sending is not None and lane.sending.Test():
            assert lane.sent is not None
            self._release(lane.sent)
            lane.sending = lane.sent = None
        if not lane.queued:
            return
        if lane.sending is not None:
            self._note(lane)
            return
        parcel = self._parcel(lane)
        lane.sending = lane.comm.Issend([parcel.message, MPI.BYTE], dest=lane.rank, tag=TAG)
        parcel.users += 1
        self._traffic.sent(lane.worker, parcel.content_bytes, self.task_format.overhead_bytes, shared=parcel.shared_bytes)
        lane.sent, lane.held, lane.queued, lane.noted = parcel, parcel.leads_to, False, False

    def stop(self, lane: Lane) -> None:
        """Say STOP, after the task on its way, which need not be begun."""
        lane.queued = False
        if lane.sending is not None:
            self._note(lane)
        self.send(lane, bare(Kind.STOP, self._run))

    def send(self, lane: Lane, message: Buffer) -> None:
        """Send a message that is no task, behind the task on its way."""
        self._notes = [(request, kept) for request, kept in self._notes if not _done(request)]
        self._notes.append((lane.comm.Isend([message, MPI.BYTE], dest=lane.rank, tag=TAG), message))
        self._traffic.control += message.size

    def abandon(self, lane: Lane) -> None:
        """Forget a worker that is gone. What was on its way to it is not reused: MPI may still hold it."""
        lane.queued, lane.sent = False, None

    def _parcel(self, lane: Lane) -> Parcel:
        """Return the newest task's message for a worker."""
        task = self._task
        assert task is not None
        assert task.content is not None
        whole = task.content.whole
        shares = lane.shares and whole is not None and self.board is not None
        key = (UNKNOWN if whole is not None else lane.held, shares)
        parcel = self._parcels.get(key)
        if parcel is None:
            parcel = self._parcels[key] = self._shared(task) if shares else self._written(task, key[0])
        return parcel

    def _written(self, task: Task, base: int) -> Parcel:
        assert task.content is not None
        nbytes = self.task_format.nbytes(task, base)
        buffer = self._buffer(nbytes)
        message = buffer[:nbytes]
        leads_to = task.content.version
        self.task_format.write(task, self._run, base, message)
        return Parcel(buffer, message, leads_to, nbytes - self.task_format.overhead_bytes, 0)

    def _shared(self, task: Task) -> Parcel:
        """Put the model on the board, and return a message that refers to it."""
        assert task.content is not None
        assert task.content.whole is not None
        assert self.board is not None
        nbytes = self.task_format.overhead_bytes + REFERENCE_BYTES
        buffer = self._buffer(nbytes)
        message = buffer[:nbytes]
        self.board.put(task.content.whole, message[self.task_format.overhead_bytes :])
        self.task_format.write_overhead(task, self._run, message)
        size = task.content.whole.size
        return Parcel(buffer, message, task.content.version, size, size)

    def _buffer(self, nbytes: int) -> Buffer:
        for i, buffer in enumerate(self.spare):
            if nbytes <= buffer.size <= _ROOMY * nbytes:
                return self.spare.pop(i)
        return aligned_buffer(nbytes)

    def _release(self, parcel: Parcel) -> None:
        parcel.users -= 1
        if parcel.users == 0:
            self.spare.append(parcel.buffer)
            if len(self.spare) > _SPARE:
                self.spare.pop(0)

    def _note(self, lane: Lane) -> None:
        if not lane.noted:
            self.send(lane, bare(Kind.SUPERSEDED, self._run))
            lane.noted = True


def _done(request: MPI.Request) -> bool:
    try:
        return bool(request.Test())
    except MPI.Exception:
        return True  # its receiver is gone

"""The master's sends: the newest task to each worker, never more than one on its way, each model version in one buffer.

See :mod:`gcdl.transport.mpi` for why.
"""

from __future__ import annotations

from dataclasses import dataclass

from mpi4py import MPI

from gcdl.messages import Kind, Task, TaskFormat, bare
from gcdl.transport.base import Traffic
from gcdl.transport.job import TAG
from gcdl.types import Buffer, aligned_buffer


@dataclass(eq=False)
class Version:
    """One model version as it travels, and how many still read it: sends, queues, and the newest task itself."""

    buffer: Buffer
    users: int = 0


@dataclass(eq=False)
class Lane:
    """The way to one worker: a rank of a communicator."""

    comm: MPI.Comm
    rank: int
    sending: MPI.Request | None = None
    """The task on its way; ``sent`` is its version."""
    sent: Version | None = None
    queued: Version | None = None
    """What goes next, when the one on its way has been received."""
    noted: bool = False
    """The task on its way is followed by a SUPERSEDED note already."""


class Downlink:
    """Everything the master sends. Methods that start or test sends raise MPI.Exception if the worker is gone."""

    def __init__(self, run: int, task_format: TaskFormat, traffic: Traffic) -> None:
        self.task_format = task_format
        self.newest: Version | None = None
        self.spare: list[Version] = []
        """The pool: versions that nobody reads any more."""
        self._run = run
        self._traffic = traffic
        self._task: Task | None = None
        self._notes: list[tuple[MPI.Request, Buffer]] = []

    def offer(self, lane: Lane, task: Task) -> None:
        """Queue a task, in place of one that is queued already."""
        if task is not self._task:
            self._write(task)
        assert self.newest is not None
        self.newest.users += 1
        self._drop(lane)
        lane.queued = self.newest

    def flush(self, lane: Lane) -> None:
        """Start the queued send when the one before is complete; otherwise tell the worker not to bother with that."""
        if lane.sending is not None and lane.sending.Test():
            assert lane.sent is not None
            self._release(lane.sent)
            lane.sending = lane.sent = None
        if lane.queued is None:
            return
        if lane.sending is not None:
            self._note(lane)
            return
        lane.sending = lane.comm.Issend([lane.queued.buffer, MPI.BYTE], dest=lane.rank, tag=TAG)
        self._traffic.downlink += lane.queued.buffer.size
        lane.sent, lane.queued, lane.noted = lane.queued, None, False

    def stop(self, lane: Lane) -> None:
        """Say STOP, after the task on its way, which need not be begun."""
        self._drop(lane)
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
        lane.queued = lane.sent = None

    def _write(self, task: Task) -> None:
        version = self.spare.pop() if self.spare else Version(aligned_buffer(self.task_format.nbytes))
        self.task_format.write(task, self._run, version.buffer)
        if self.newest is not None:
            self._release(self.newest)
        version.users += 1
        self._task, self.newest = task, version

    def _drop(self, lane: Lane) -> None:
        if lane.queued is not None:
            self._release(lane.queued)
            lane.queued = None

    def _release(self, version: Version) -> None:
        version.users -= 1
        if version.users == 0:
            self.spare.append(version)

    def _note(self, lane: Lane) -> None:
        if not lane.noted:
            self.send(lane, bare(Kind.SUPERSEDED, self._run))
            lane.noted = True


def _done(request: MPI.Request) -> bool:
    try:
        return bool(request.Test())
    except MPI.Exception:
        return True  # its receiver is gone

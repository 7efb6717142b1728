"""A worker's way to one master: the messages that come from it, those that go to it, and its slice of the model."""

from __future__ import annotations

from mpi4py import MPI

from gcdl.compressors.parts import Part
from gcdl.downlinks import Follower
from gcdl.errors import MessageError
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.tasks import Task
from gcdl.protocol.wire import HEADER_BYTES, Header, Kind
from gcdl.transport.mpi.job import TAG, check_size
from gcdl.transport.mpi.model_receiver import Model
from gcdl.types import Buffer, aligned_buffer


class Inbox:
    """What a master sends: one receive always posted, in the buffer that the current task does not lie in."""

    def __init__(self, comm: MPI.Comm, master: int, run: int) -> None:
        self._comm = comm
        self._master = master
        self._run = run
        self._buffers: list[Buffer] = []
        self._status = MPI.Status()
        self._header: Header | None = None
        self._last = (Kind.END, Kind.ADOPT) if master == 0 else (Kind.STOP,)
        """What comes after these is for nobody: not for this inbox, or, after ADOPT, for a larger one."""
        self._open = False
        self.foreign = 0
        """Messages dropped because they were not of this run, or damaged."""
        self._which = 0

    def open(self, nbytes: int) -> None:
        """Begin to receive messages of up to ``nbytes`` bytes. Once open, it stays as it is."""
        if not self._buffers:
            self._buffers = [aligned_buffer(nbytes), aligned_buffer(nbytes)]
            self._post()

    def _post(self) -> None:
        self._open = True
        self._request = self._comm.Irecv([self._buffers[self._which], MPI.BYTE], source=self._master, tag=TAG)

    def poll(self) -> bool:
        """Say whether a message has come."""
        if self._header is None and self._open and self._request.Test(self._status):
            received = self._status.Get_count(MPI.BYTE)
            try:
                self._header = Header.read(self._buffers[self._which], received, self._run)
            except MessageError:
                self.foreign += 1
                self._post()
        return self._header is not None

    def refuse(self) -> None:
        """Count the message that was taken last as one that should not have come, and receive on."""
        self.foreign += 1
        if not self._open:
            self._post()

    def take(self) -> tuple[Header, Buffer]:
        """Return the message that has come; it stays valid until the next call."""
        assert self._header is not None
        header, buffer = self._header, self._buffers[self._which]
        self._header = None
        self._which = 1 - self._which
        if header.kind in self._last:
            self._open = False  # a receive left posted would take the first message of a script's next run
        else:
            self._post()
        return header, buffer


class Outbox:
    """What goes to a master, kept alive until MPI has it."""

    def __init__(self, comm: MPI.Comm, master: int) -> None:
        self._comm = comm
        self._master = master
        self._pending: list[tuple[MPI.Request, Buffer]] = []
        self.reply_bytes = 0

    def send(self, message: Buffer) -> None:
        """Start sending."""
        self._pending.append((self._comm.Isend([message, MPI.BYTE], dest=self._master, tag=TAG), message))

    def empty(self) -> bool:
        """Say whether all sends are complete."""
        self._pending = [(request, kept) for request, kept in self._pending if not request.Test()]
        return not self._pending


class WorkerLane:
    """The way to one master.

    Parameters
    ----------
    comm : where the masters are.
    master : its rank.
    run : the run's id.
    """

    def __init__(self, comm: MPI.Comm, master: int, run: int) -> None:
        self.master = master
        self._comm = comm
        self._run = run
        self.inbox = Inbox(comm, master, run)
        self.outbox = Outbox(comm, master)
        self.model: Model | None = None
        self.task: Task | None = None
        """The newest task, if the slice of the model that it brings is there."""
        self.stopped = False
        """The master has said STOP; or it is gone."""
        self._part: Part | None = None
        self._message: Buffer | None = None

    def reopen(self) -> None:
        """Make a new inbox, which may be opened for larger messages."""
        self.inbox = Inbox(self._comm, self.master, self._run)

    def connect(self, follower: Follower, task_format: TaskFormat, least_bytes: int, part: Part | None) -> None:
        """Begin to receive the slice of the model that ``follower`` takes in.

        ``part`` : the slice, whose part of a payload is sent; None: it is all of it. ``least_bytes``: of the largest message
        that is no task.

        Raises
        ------
        UsageError : tasks would be too large for MPI.
        """
        self.model = Model(follower, task_format)
        check_size(self.model.most_bytes, "a task with a snapshot of the model and of the optimizer's state")
        self._part = part
        if part is not None:
            self._message = aligned_buffer(HEADER_BYTES + part.codec.payload_bytes)
        self.inbox.open(max(self.model.most_bytes, least_bytes))

    @property
    def groups(self) -> slice | None:
        """Which of the scales agreed on are this slice's; None: all."""
        return None if self._part is None else self._part.groups

    def message_of(self, whole: Buffer) -> Buffer:
        """Return the message to this master with its part of a reply's payload. Its header is not written."""
        if self._part is None or self._message is None:
            return whole
        self._part.cut(whole[HEADER_BYTES:], self._message[HEADER_BYTES:])
        return self._message

    def reply(self, message: Buffer) -> None:
        """Start sending a reply."""
        self.outbox.send(message)
        self.outbox.reply_bytes += message.size

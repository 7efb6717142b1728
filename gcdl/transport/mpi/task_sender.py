"""The master's sends: the newest task to each worker, never more than one on its way, what goes to several in one buffer.

See :mod:`gcdl.transport.mpi.master_end` for why. What a task has to bring depends on the version of the model that its worker
has. That is known here: messages to a worker arrive in order, and it takes in every one. So a message is made when it is
about to be sent, for the version that the one before it led to, and workers that are equally far share it.

On other hosts than the master's it crosses the network once for all of them: to the first that is idle, and so will see it at
once, preceded by a note to put it on its board; the rest is sent a reference (:mod:`gcdl.transport.mpi.shared_memory`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mpi4py import MPI

from gcdl.downlinks import UNKNOWN, Content
from gcdl.protocol.ledger import Traffic
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.tasks import Task
from gcdl.protocol.wire import Kind, bare
from gcdl.transport.mpi.job import TAG
from gcdl.transport.mpi.shared_memory import REFERENCE_BYTES, Address, Board
from gcdl.types import Buffer, aligned_buffer

_SPARE = 8
_ROOMY = 4  # times as large as need be


@dataclass(eq=False)
class Letter:
    """A message in a buffer of the pool, and how many still read it."""

    buffer: Buffer
    message: Buffer
    users: int = 1


@dataclass(eq=False)
class Parcel:
    """What the newest task brings those workers that have one version of the model.

    ``number``: of the content, wherever it is posted. ``leads_to``: the version it leads to. ``whole``: the message itself, if
    it was made. ``references``, ``carriers``: by host, the message that refers to a board, and where that board is.
    """

    number: int
    leads_to: int
    content_bytes: int
    whole: Letter | None = None
    references: dict[str, Letter] = field(default_factory=dict)
    carriers: dict[str, Address] = field(default_factory=dict)

    def letters(self) -> list[Letter]:
        """Return all messages."""
        return [*([] if self.whole is None else [self.whole]), *self.references.values()]


@dataclass(eq=False)
class Lane:
    """The way to one worker: a rank of a communicator."""

    comm: MPI.Comm
    rank: int
    worker: int
    held: int = UNKNOWN
    """The version of the model that the worker has when it has taken in all that was sent."""
    host: str = ""
    """Where it reads boards; "": nowhere."""
    board: Address | None = None
    """The worker's own."""
    idle: bool = False
    """It has answered all that it was sent."""
    direct: bool = False
    """The next task is sent itself, not by way of a board."""
    sending: MPI.Request | None = None
    """The task on its way; ``sent`` is its message."""
    sent: Letter | None = None
    queued: bool = False
    """The newest task goes next, when the one on its way has been received."""
    noted: bool = False
    """The task on its way is followed by a SUPERSEDED note already."""


class Lanes:
    """Everything the master sends. Methods that start or test sends raise MPI.Exception if the worker is gone.

    Parameters
    ----------
    run : the run's id.
    task_format : how tasks lie in memory.
    traffic : counts what is sent.
    host : this one.
    """

    def __init__(self, run: int, task_format: TaskFormat, traffic: Traffic, host: str) -> None:
        self.task_format = task_format
        self.board: Board | None = None
        """For the workers of this host."""
        self.readers: Counter[str] = Counter()
        """By host, how many workers read boards there."""
        self.spare: list[Buffer] = []
        """The pool: buffers that nobody reads any more."""
        self._run = run
        self._traffic = traffic
        self._host = host
        self._task: Task | None = None
        self._parcels: dict[int, Parcel] = {}
        """Of the newest task: by the version that a worker has."""
        self._numbers = 0
        self._notes: list[tuple[MPI.Request, Buffer]] = []
        self._under_way: dict[Lane, MPI.Request] = {}
        """The tasks on their way."""
        self._due: list[Lane] = []
        """Whose task is queued, and nothing is on its way to them."""

    def offer(self, lane: Lane, task: Task) -> None:
        """Queue a task, in place of one that is queued already."""
        if task is not self._task:
            for parcel in self._parcels.values():
                for letter in parcel.letters():
                    self._release(letter)
            self._parcels.clear()
            self._task = task
        lane.queued = True

    def again(self, lane: Lane, held: int) -> None:
        """Queue the newest task once more, itself, for a worker that has version ``held`` and no other."""
        lane.held = held
        lane.direct = True
        lane.queued = self._task is not None
        self._due.append(lane)

    def advance(self) -> list[tuple[Lane, MPI.Exception]]:
        """Take in which sends are complete, and start those queued behind them; return the lanes whose worker is gone."""
        failed: list[tuple[Lane, MPI.Exception]] = []
        if not self._under_way and not self._due:
            return failed
        under_way = list(self._under_way)
        try:
            MPI.Request.Testsome(list(self._under_way.values()))
        except MPI.Exception:  # it does not say whose; flush() finds out
            complete = under_way
        else:
            complete = [lane for lane in under_way if not lane.sending]
        due, self._due = [*self._due, *complete], []
        for lane in due:
            try:
                self.flush(lane)
            except MPI.Exception as error:
                failed.append((lane, error))
        return failed

    def flush(self, lane: Lane) -> None:
        """Start the queued send when the one before is complete; otherwise tell the worker not to bother with that."""
        if lane.sending is not None and lane.sending.Test():
            assert lane.sent is not None
            self._release(lane.sent)
            lane.sending = lane.sent = None
            self._under_way.pop(lane, None)
        if not lane.queued:
            return
        if lane.sending is not None:
            self._note(lane)
            return
        parcel = self._parcel(lane)
        letter = self._letter(lane, parcel)
        lane.sending = lane.comm.Issend([letter.message, MPI.BYTE], dest=lane.rank, tag=TAG)
        self._under_way[lane] = lane.sending
        letter.users += 1
        shared = 0 if letter is parcel.whole else parcel.content_bytes - REFERENCE_BYTES
        self._traffic.sent(lane.worker, parcel.content_bytes, self.task_format.overhead_bytes, shared=shared)
        lane.sent, lane.held, lane.queued, lane.noted = letter, parcel.leads_to, False, False

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
        self._under_way.pop(lane, None)
        self.reads(lane, "")

    def reads(self, lane: Lane, host: str) -> None:
        """Note where a worker reads boards; "": nowhere."""
        self.readers[lane.host] -= 1
        lane.host = host
        self.readers[host] += 1

    def _parcel(self, lane: Lane) -> Parcel:
        """Return what the newest task brings a worker."""
        content = self._content()
        base = UNKNOWN if content.whole is not None else lane.held
        parcel = self._parcels.get(base)
        if parcel is None:
            self._numbers += 1
            parcel = self._parcels[base] = Parcel(self._numbers, content.version, content.nbytes(base))
        return parcel

    def _letter(self, lane: Lane, parcel: Parcel) -> Letter:
        """Return the message by which a worker gets a parcel: itself, or a reference to a board of its host."""
        if lane.direct:
            lane.direct = False
            return self._whole(lane, parcel)
        if lane.host and parcel.content_bytes > REFERENCE_BYTES and lane.host not in parcel.carriers:
            whole = self._content().whole
            if lane.host == self._host:
                if self.board is not None and whole is not None:
                    self.board.put(parcel.number, whole)
                    parcel.carriers[lane.host] = self.board.address
            elif lane.idle and lane.board is not None and self.readers[lane.host] > 1:
                self.send(lane, bare(Kind.POST, self._run, step=parcel.number))
                parcel.carriers[lane.host] = lane.board
                return self._whole(lane, parcel)
        carrier = parcel.carriers.get(lane.host) if lane.host else None
        return self._whole(lane, parcel) if carrier is None else self._reference(lane.host, carrier, parcel)

    def _whole(self, lane: Lane, parcel: Parcel) -> Letter:
        if parcel.whole is None:
            base = UNKNOWN if self._content().whole is not None else lane.held
            parcel.whole = self._new(parcel.content_bytes)
            assert self._task is not None
            self.task_format.write(self._task, self._run, base, parcel.whole.message)
        return parcel.whole

    def _reference(self, host: str, carrier: Address, parcel: Parcel) -> Letter:
        letter = parcel.references.get(host)
        if letter is None:
            letter = parcel.references[host] = self._new(REFERENCE_BYTES)
            assert self._task is not None
            carrier.refer(parcel.number, parcel.content_bytes, letter.message[self.task_format.overhead_bytes :])
            self.task_format.write_overhead(self._task, self._run, letter.message)
        return letter

    def _content(self) -> Content:
        assert self._task is not None
        assert self._task.content is not None
        return self._task.content

    def _new(self, content_bytes: int) -> Letter:
        """Return a message with room for a content, in a buffer of the pool if one fits."""
        nbytes = self.task_format.overhead_bytes + content_bytes
        fits = (i for i, buffer in enumerate(self.spare) if nbytes <= buffer.size <= _ROOMY * nbytes)
        found = next(fits, None)
        buffer = aligned_buffer(nbytes) if found is None else self.spare.pop(found)
        return Letter(buffer, buffer[:nbytes])

    def _release(self, letter: Letter) -> None:
        letter.users -= 1
        if letter.users == 0:
            self.spare.append(letter.buffer)
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

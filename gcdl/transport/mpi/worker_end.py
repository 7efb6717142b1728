"""A worker's end of the MPI transport: :func:`serve`. How messages flow is told in :mod:`gcdl.transport.mpi.master_end`."""

from __future__ import annotations

import math
import platform
import time
import traceback
from collections.abc import Callable, Iterator

from mpi4py import MPI

from gcdl.downlinks import Follower
from gcdl.errors import GcdlError, MasterGone, MessageError, NonFiniteGradient, WorkerError
from gcdl.host.processes import this_process
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.tasks import Reply, Task
from gcdl.protocol.wire import HEADER_BYTES, Header, Kind, with_json
from gcdl.protocol.worker import Encode, Pause, Sleep, Slowdown, Struck, Worker
from gcdl.stragglers import flip_bits
from gcdl.transport.mpi.fault_injection import strike
from gcdl.transport.mpi.job import CONTROL_BYTES, PART_BYTES, TAG, Backoff, Job
from gcdl.transport.mpi.model_receiver import Model
from gcdl.types import Buffer, aligned_buffer

_TRACEBACK_CHARACTERS = CONTROL_BYTES // 8  # a character takes up to six bytes of JSON


class _Inbox:
    """What the master sends: one receive always posted, in the buffer that the current task does not lie in."""

    def __init__(self, comm: MPI.Comm, run: int) -> None:
        self._comm = comm
        self._run = run
        self._buffers: list[Buffer] = []
        self._status = MPI.Status()
        self._header: Header | None = None
        self.foreign = 0
        """Messages dropped because they were not of this run, or damaged."""
        self._which = 0

    def open(self, nbytes: int) -> None:
        """Begin to receive messages of up to ``nbytes`` bytes. Once open, it stays as it is."""
        if not self._buffers:
            self._buffers = [aligned_buffer(nbytes), aligned_buffer(nbytes)]
            self._post()

    def _post(self) -> None:
        self._request = self._comm.Irecv([self._buffers[self._which], MPI.BYTE], source=0, tag=TAG)

    def poll(self) -> bool:
        """Say whether a message has come."""
        if self._header is None and self._request.Test(self._status):
            received = self._status.Get_count(MPI.BYTE)
            try:
                self._header = Header.read(self._buffers[self._which], received, self._run)
            except MessageError:
                self.foreign += 1
                self._post()
        return self._header is not None

    def take(self) -> tuple[Header, Buffer]:
        """Return the message that has come; it stays valid until the next call."""
        assert self._header is not None
        header, buffer = self._header, self._buffers[self._which]
        self._header = None
        self._which = 1 - self._which
        if header.kind not in (Kind.END, Kind.ADOPT):  # what comes then is for nobody, or for a larger inbox
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
        self._pending.append((self._comm.Isend([message, MPI.BYTE], dest=0, tag=TAG), message))

    def empty(self) -> bool:
        """Say whether all sends are complete."""
        self._pending = [(request, kept) for request, kept in self._pending if not request.Test()]
        return not self._pending


def serve(
    job: Job,
    *,
    run: int,
    master_timeout: float,
    prepare: Callable[[int, int], tuple[Worker, Follower]],
    n: int | None = None,
    checksums: bool = False,
) -> None:
    """Be a worker until the master says STOP, and then END; the caller then ends the job.

    ``prepare`` loads the data of a worker, who begins at a step, and makes its end of the downlink: of this rank itself at
    step 0, or, on a rank beyond the ``n`` workers, a spare, of the lost worker whose place it is told to take. An exception of
    it or of the work itself is sent home, and ends the whole run from there. With ``checksums`` replies carry one.

    Raises
    ------
    MasterGone : the master's process is gone, or it has been silent for ``master_timeout`` seconds.
    """
    n = job.workers if n is None else n
    me = job.rank - 1
    outbox = _Outbox(job.comm)
    inbox = _Inbox(job.comm, run)
    step = -1
    try:
        try:
            since = 0
            stopped = False
            outbox.send(with_json(Kind.HELLO, run, max(0, me), this_process()))
            if me >= n:
                inbox.open(HEADER_BYTES)
                header, _ = _next(inbox, outbox, math.inf)  # nobody speaks to a spare until it is needed
                stopped = header.kind is not Kind.ADOPT
                if not stopped:
                    me, since, inbox = header.worker, header.step, _Inbox(job.comm, run)
            if not stopped:
                worker, follower = prepare(me, since)
                model = Model(follower, TaskFormat(n, worker.agreed_count))
                inbox.open(max(model.most_bytes, HEADER_BYTES + worker.state_bytes, CONTROL_BYTES))
                outbox.send(with_json(Kind.READY, run, me, {"version": follower.version, "board": model.address}))
            while not stopped:
                header, buffer = _next(inbox, outbox, master_timeout)
                if header.kind is Kind.STOP:
                    stopped = True
                elif header.kind is Kind.LOAD:
                    worker.load(buffer[HEADER_BYTES : HEADER_BYTES + header.body_bytes])
                elif header.kind is Kind.SAVE:
                    _flush(inbox, outbox, master_timeout)  # one state's parts at a time
                    for part in _state(worker, header.step, run, me):
                        outbox.send(part)
                elif header.kind is Kind.POST:
                    model.post_under = header.step
                elif header.kind is Kind.TASK:
                    step = header.step
                    task = model.take_in(header, buffer, inbox)
                    if task is None and model.complaint is not None:
                        outbox.send(with_json(Kind.LACKING, run, me, model.complaint, step=step))
                    elif task is not None and not inbox.poll():  # else something newer lies right behind it
                        _work(worker, task, model, inbox, outbox, run, checksums)
        except (MPI.Exception, MasterGone):
            raise
        except (Exception, SystemExit) as error:
            outbox.send(_confession(error, run, me, step))
            inbox.open(HEADER_BYTES)
            while _next(inbox, outbox, master_timeout)[0].kind is not Kind.STOP:
                pass
        _flush(inbox, outbox, master_timeout)
        outbox.send(with_json(Kind.BYE, run, me, {"uplink_bytes": outbox.reply_bytes, "foreign": inbox.foreign}))
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


def _work(worker: Worker, task: Task, model: Model, inbox: _Inbox, outbox: _Outbox, run: int, checksums: bool) -> None:
    """Do one task and send the reply, unless something newer comes."""
    job = worker.handle(task)
    slept = computed = held = encoded = 0.0
    try:
        while True:
            began = time.perf_counter()
            try:
                pause = next(job)
            except StopIteration as done:
                reply: Reply = done.value
                encoded = time.perf_counter() - began  # what follows the last pause
                break
            computed += time.perf_counter() - began
            if isinstance(pause, Struck):
                model.damage() if pause.fault.fault == "damage" else strike(pause.fault)
            sleep = _sleep(pause, computed)
            if isinstance(pause, Sleep) and not pause.computed:
                slept = sleep
            else:
                held += sleep
            if _superseded(pause, sleep, inbox, outbox):
                return
    except NonFiniteGradient:
        if model.intact():
            raise
        return  # it was computed at what is no model any more
    finally:
        job.close()
    if not model.intact():
        return
    header = Header(
        Kind.REPLY,
        run,
        reply.worker,
        reply.step,
        body_bytes=reply.message.size - HEADER_BYTES,
        loss=reply.loss,
        slept=slept,
        computed=computed,
        held=held,
        encoded=encoded,
        clipped=reply.clipped,
    )
    header.write(reply.message, checksum=checksums)
    if reply.corrupt:
        flip_bits(reply.payload)
    outbox.send(reply.message)
    outbox.reply_bytes += reply.message.size


def _sleep(pause: Pause, computed: float) -> float:
    """Return how many seconds to sleep in a pause, having computed for ``computed``."""
    if isinstance(pause, Sleep):
        return pause.seconds
    return (pause.factor - 1.0) * computed if isinstance(pause, Slowdown) else 0.0


def _superseded(pause: Pause, seconds: float, inbox: _Inbox, outbox: _Outbox) -> bool:
    """Live through a pause, sleeping ``seconds``; say whether something newer has come in it."""
    until = time.monotonic() + seconds
    backoff = Backoff()
    while not inbox.poll():
        left = until - time.monotonic()
        # The last reply must be out before it may be overwritten.
        if left <= 0.0 and (not isinstance(pause, Encode) or outbox.empty()):
            return False
        outbox.empty()
        backoff.sleep(left if left > 0.0 else 1.0)
    return True


def _state(worker: Worker, accepted: int, run: int, me: int) -> Iterator[Buffer]:
    """Yield the STATE messages: parts of the state, in their order."""
    saved = worker.save(accepted)[HEADER_BYTES:]
    for offset in range(0, saved.size, PART_BYTES):
        part = saved[offset : offset + PART_BYTES]
        message = aligned_buffer(HEADER_BYTES + part.size)
        message[HEADER_BYTES:] = part
        Header(Kind.STATE, run, me, accepted, body_bytes=part.size, offset=offset).write(message, checksum=True)
        yield message


def _confession(error: BaseException, run: int, worker: int, step: int) -> Buffer:
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

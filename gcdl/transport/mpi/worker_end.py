"""A worker's end of the MPI transport: :func:`serve`. How messages flow is told in :mod:`gcdl.transport.mpi.master_end`.

With several masters a worker has a lane to each. It begins a step when all slices of one version of the model are there. Each
master is sent its part of the reply. Any message from any master ends the work on a task: then the step is over, or the run.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from gcdl.compressors.parts import Part
from gcdl.downlinks import Follower
from gcdl.errors import MasterGone, MessageError, NonFiniteGradient
from gcdl.host.processes import this_process
from gcdl.protocol.coding import read_row, row_bytes
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.tasks import Reply, Task
from gcdl.protocol.wire import HEADER_BYTES, Header, Kind, bare, with_body, with_json, with_sums
from gcdl.protocol.worker import Encode, Evaluated, Pause, Sleep, Slowdown, Struck, Worker
from gcdl.stragglers import flip_bits
from gcdl.transport.mpi.backoff import Backoff
from gcdl.transport.mpi.error_fields import error_fields
from gcdl.transport.mpi.fault_injection import strike
from gcdl.transport.mpi.job import CONTROL_BYTES, PART_BYTES, Job
from gcdl.transport.mpi.row_loader import RowLoader
from gcdl.transport.mpi.worker_lane import WorkerLane
from gcdl.types import Buffer, Vector


class Prepared(NamedTuple):
    """A worker that has loaded its data, and its ends of the downlinks.

    ``followers`` and ``parts``: of each slice of the model. ``parts`` is None where one master has all of it. ``model``: (d,),
    in which the followers of several slices keep theirs; None: a single follower says where its model is. ``k``: how many
    shards there are.
    """

    worker: Worker
    followers: Sequence[Follower]
    parts: Sequence[Part] | None = None
    model: Vector | None = None
    k: int = 0


def serve(
    job: Job,
    *,
    run: int,
    n: int,
    master_timeout: float,
    prepare: Callable[[int, int], Prepared],
    masters: int = 1,
    checksums: bool = False,
) -> None:
    """Be a worker until the master says STOP, and then END; the caller then ends the job.

    Parameters
    ----------
    job : all ranks: the masters, then the workers, then the spares.
    run : the run's id.
    n : the number of workers.
    master_timeout : seconds of silence after which the master is taken for dead.
    prepare : loads the data of a worker, who begins at a step, and makes its ends of the downlinks. On a worker's rank that is
        the rank's own worker, at step 0; on a spare, the lost worker whose place it is told to take.
    masters : ranks 0 .. masters - 1 are masters.
    checksums : replies carry one.

    An exception of ``prepare`` or of the work itself is sent to rank 0, and ends the whole run from there.

    Raises
    ------
    MasterGone : the master's process is gone, or it has been silent for ``master_timeout`` seconds.
    """
    me = job.rank - masters
    try:
        _Service(job, run, me, spare=me >= n, patience=master_timeout, checksums=checksums).serve(n, prepare)
    except MPI.Exception as error:
        raise MasterGone(f"worker {me}: lost the master ({error})") from error


class _Service:
    """A worker at work. ``lanes[0]`` leads to rank 0, which decides; the others lead to the slice masters."""

    def __init__(self, job: Job, run: int, me: int, *, spare: bool, patience: float, checksums: bool) -> None:
        self._job = job
        self._run = run
        self._me = me
        self._spare = spare
        self._patience = patience
        self._checksums = checksums
        self._first = WorkerLane(job.comm, 0, run)
        self._lanes = [self._first]
        self._step = -1
        self._heard = time.monotonic()
        self._rows: RowLoader | None = None

    def serve(self, n: int, prepare: Callable[[int, int], Prepared]) -> None:
        """See the function of this name."""
        try:
            self._first.outbox.send(with_json(Kind.HELLO, self._run, max(0, self._me), this_process()))
            since = self._wait_for_a_place() if self._spare else 0
            if since is not None:
                prepared = prepare(self._me, since)
                self._connect(prepared, n)
                self._work_until_stopped(prepared)
        except (MPI.Exception, MasterGone):
            raise
        except (Exception, SystemExit) as error:
            self._rows = None
            told = {**error_fields(error), "host": platform.node()}
            self._first.outbox.send(with_json(Kind.ERROR, self._run, self._me, told, step=self._step))
            for lane in self._lanes:
                lane.inbox.open(HEADER_BYTES)
            while not all(lane.stopped for lane in self._lanes):
                self._next()
        self._say_goodbye()

    # -- beginning and end

    def _wait_for_a_place(self) -> int | None:
        """Wait, as a spare, until a lost worker's place is to be taken; return its first step. None: the run is over."""
        self._first.inbox.open(HEADER_BYTES)
        while not self._first.inbox.poll():  # nobody speaks to a spare until it is needed
            self._first.outbox.empty()
            time.sleep(1e-3)
        header, _ = self._first.inbox.take()
        if header.kind is not Kind.ADOPT:
            self._first.stopped = True
            return None
        self._me = header.worker
        self._first.reopen()
        self._heard = time.monotonic()
        return header.step

    def _connect(self, prepared: Prepared, n: int) -> None:
        """Say READY to every master, each of which has a slice of the model."""
        worker, parts = prepared.worker, prepared.parts
        others = [WorkerLane(self._job.comm, master, self._run) for master in range(1, len(prepared.followers))]
        for lane in others:
            lane.outbox.send(with_json(Kind.HELLO, self._run, self._me, this_process()))
        self._lanes += others
        for lane, follower in zip(self._lanes, prepared.followers, strict=True):
            part = None if parts is None else parts[lane.master]
            scales = worker.agreed_count if part is None else part.codec.agreed_count
            leads = lane.master == 0
            least = max(CONTROL_BYTES, HEADER_BYTES + worker.state_bytes, row_bytes(prepared.k)) if leads else HEADER_BYTES
            lane.connect(follower, TaskFormat(n if leads else 0, scales), least, part)
            assert lane.model is not None
            ready = {"version": follower.version, "board": lane.model.address}
            lane.outbox.send(with_json(Kind.READY, self._run, self._me, ready))

    def _say_goodbye(self) -> None:
        """Say BYE to every master, and wait for rank 0's END."""
        self._flush()
        for lane in self._lanes:
            said = {"uplink_bytes": lane.outbox.reply_bytes, "foreign": lane.inbox.foreign}
            lane.outbox.send(with_json(Kind.BYE, self._run, self._me, said))
        header = self._next_of_first()
        while header.kind is not Kind.END:
            header = self._next_of_first()
        self._job.damaged = header.step != 0

    # -- messages

    def _polled(self) -> WorkerLane | None:
        """Return a lane on which a message has come. Sends move on only while somebody looks, and so does loading."""
        self._look_for_loaded()
        for lane in self._lanes:
            try:
                lane.outbox.empty()
                if lane.inbox.poll():
                    return lane
            except MPI.Exception:
                if lane is self._first:
                    raise
                self._abandon(lane)
        return None

    def _look_for_loaded(self) -> None:
        """Take a row of another code whose shards have been loaded, and say so."""
        if self._rows is not None and (row := self._rows.look()) is not None:
            self._rows.worker.prepare(row.number, row.gradient, fresh=row.fresh)
            self._first.outbox.send(bare(Kind.LOADED, self._run, worker=self._me, step=row.number))

    def _abandon(self, lane: WorkerLane) -> None:
        """Go on without a slice master that is gone, until rank 0 says STOP: no further step can begin."""
        self._lanes.remove(lane)
        for other in self._lanes:
            other.task = None

    def _news(self) -> bool:
        """Say whether a message has come."""
        return self._polled() is not None

    def _sent(self) -> bool:
        """Say whether all that was sent has been taken."""
        self._polled()
        return all(lane.outbox.empty() for lane in list(self._lanes))

    def _next(self) -> tuple[WorkerLane, Header, Buffer]:
        """Wait for the next message.

        Raises
        ------
        MasterGone : there was none for too long.
        """
        backoff = Backoff()
        until = time.monotonic() + self._patience
        while (lane := self._polled()) is None:
            if time.monotonic() > until:
                raise MasterGone(f"the master (rank 0) has been silent for {self._patience:g} s")
            backoff.sleep()
        header, buffer = lane.inbox.take()
        lane.stopped |= header.kind is Kind.STOP
        return lane, header, buffer

    def _next_of_first(self) -> Header:
        while True:
            lane, header, _ = self._next()
            if lane is self._first:
                return header

    def _flush(self) -> None:
        """Wait until all that was sent has been taken.

        Raises
        ------
        MasterGone : it takes too long.
        """
        backoff = Backoff()
        until = time.monotonic() + self._patience
        while not self._sent():
            if time.monotonic() > until:
                raise MasterGone(f"the master (rank 0) has not taken the last message within {self._patience:g} s")
            backoff.sleep()

    # -- tasks

    def _work_until_stopped(self, prepared: Prepared) -> None:
        """Do what the masters ask for, until all of them have said STOP."""
        worker = prepared.worker
        self._rows = RowLoader(worker)
        while not all(lane.stopped for lane in self._lanes):
            lane, header, buffer = self._next()
            if header.kind is Kind.LOAD:
                if header.body_bytes != worker.state_bytes:
                    raise MessageError(f"a state of {header.body_bytes} bytes where {worker.state_bytes} were expected")
                worker.load(buffer[HEADER_BYTES : HEADER_BYTES + header.body_bytes])
            elif header.kind is Kind.SAVE:
                self._flush()  # one state's parts at a time
                for part in _state(worker, header.step, self._run, self._me):
                    self._first.outbox.send(part)
            elif header.kind is Kind.RECODE:
                row, fresh = read_row(header, buffer)
                self._rows.begin(header.step, row, fresh=fresh)
            elif header.kind is Kind.POST:
                assert lane.model is not None
                lane.model.post_under = header.step
            elif header.kind in (Kind.END, Kind.ADOPT):
                lane.inbox.refuse()  # neither comes to a worker that has not said goodbye
            elif header.kind is Kind.TASK:
                self._take_in(lane, header, buffer)
                task = self._whole_task(prepared)
                if task is not None and not self._news():  # else something newer lies right behind it
                    for other in self._lanes:
                        other.task = None
                    self._work(worker, task)

    def _take_in(self, lane: WorkerLane, header: Header, buffer: Buffer) -> None:
        """Take in the slice of the model that a task brings."""
        assert lane.model is not None
        self._step = max(self._step, header.step)
        lane.task = lane.model.take_in(header, buffer, lane.inbox)
        if lane.task is None and lane.model.complaint is not None:
            lane.outbox.send(with_json(Kind.LACKING, self._run, self._me, lane.model.complaint, step=header.step))

    def _whole_task(self, prepared: Prepared) -> Task | None:
        """Return the newest task, if all slices of its model are there."""
        tasks = [lane.task for lane in self._lanes]
        first = tasks[0]
        if first is None or len(tasks) < len(prepared.followers):
            return None
        if any(task is None or task.step != first.step for task in tasks):
            return None
        if prepared.parts is None:
            return first
        assert prepared.model is not None
        agreed = np.zeros(prepared.worker.agreed_count, dtype=np.float32)
        for lane, task in zip(self._lanes, tasks, strict=True):
            if task is not None and task.agreed is not None:
                agreed[lane.groups or slice(None)] = task.agreed
        return Task(first.step, first.accepted, prepared.model, None if first.agreed is None else agreed, coding=first.coding)

    def _work(self, worker: Worker, task: Task) -> None:
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
                    self._strike(pause)
                elif isinstance(pause, Evaluated):
                    computed = 0.0  # that was no part of the gradient
                    self._send_evaluated(pause)
                sleep = _sleep(pause, computed)
                if isinstance(pause, Sleep) and not pause.computed:
                    slept = sleep
                else:
                    held += sleep
                if self._superseded(pause, sleep):
                    return
        except NonFiniteGradient:
            if self._intact():
                raise
            return  # it was computed at what is no model any more
        finally:
            job.close()
        if self._intact():
            self._send_reply(replace(reply, slept=slept, computed=computed, held=held, encoded=encoded))

    def _send_evaluated(self, found: Evaluated) -> None:
        """Send rank 0 what was evaluated, if the model is still there that it was evaluated at."""
        if self._intact():
            self._first.outbox.send(with_sums(self._run, self._me, found.step, found.sums))

    def _strike(self, pause: Struck) -> None:
        if pause.fault.fault == "damage":
            assert self._first.model is not None
            self._first.model.damage()
        else:
            strike(pause.fault)

    def _intact(self) -> bool:
        """Say whether the model still is what it was when the task was begun."""
        return all(lane.model is not None and lane.model.intact() for lane in self._lanes)

    def _send_reply(self, reply: Reply) -> None:
        """Send every master its part of a reply."""
        for lane in self._lanes:
            message = lane.message_of(reply.message)
            header = Header(
                Kind.REPLY,
                self._run,
                reply.worker,
                reply.step,
                body_bytes=message.size - HEADER_BYTES,
                loss=reply.loss,
                slept=reply.slept,
                computed=reply.computed,
                held=reply.held,
                encoded=reply.encoded,
                clipped=reply.clipped,
            )
            header.write(message, checksum=self._checksums)
            if reply.corrupt and lane is self._first:
                flip_bits(message[HEADER_BYTES:])
            lane.reply(message)

    def _superseded(self, pause: Pause, seconds: float) -> bool:
        """Live through a pause, sleeping ``seconds``; say whether something newer has come in it."""
        until = time.monotonic() + seconds
        backoff = Backoff()
        while not self._news():
            left = until - time.monotonic()
            # The last reply must be out before it may be overwritten.
            if left <= 0.0 and (not isinstance(pause, Encode) or self._sent()):
                return False
            backoff.sleep(left if left > 0.0 else 1.0)
        return True


def _sleep(pause: Pause, computed: float) -> float:
    """Return how many seconds to sleep in a pause, having computed for ``computed``."""
    if isinstance(pause, Sleep):
        return pause.seconds
    return (pause.factor - 1.0) * computed if isinstance(pause, Slowdown) else 0.0


def _state(worker: Worker, accepted: int, run: int, me: int) -> Iterator[Buffer]:
    """Yield the STATE messages: parts of the state, in their order."""
    saved = worker.save(accepted)[HEADER_BYTES:]
    for offset in range(0, saved.size, PART_BYTES):
        yield with_body(Kind.STATE, run, me, accepted, saved[offset : offset + PART_BYTES], offset=offset)

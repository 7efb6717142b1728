"""n workers in this process, on a virtual clock.

A sleep takes its seconds, a stretch of work ``seconds_per_shard`` for each shard, everything else nothing. A sleeping worker
takes up a newer task at once; a computing one at the end of its stretch, as over MPI. What happens at the same instant
happens in worker order. Gradients are computed only where the reply is still wanted.
"""

from __future__ import annotations

import heapq
import math
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from gcdl.errors import GcdlError, Interrupted, WorkerError, WorkerLost
from gcdl.messages import HEADER_BYTES, Reply, Task, TaskFormat, WorkerState
from gcdl.stragglers import flip_bits
from gcdl.transport.base import Traffic
from gcdl.worker import Pause, Sleep, Struck, Work, Worker


@dataclass(slots=True)
class _Desk:
    """One worker and what it is at."""

    worker: Worker
    job: Generator[Pause, None, Reply] | None = None
    waiting: Task | None = None
    """A newer task that the worker will find at its next pause."""
    asleep: bool = False
    turn: int = 0
    """Counts wake-ups, so that a cancelled one is recognised."""
    gone: bool = False
    slept: float = 0.0
    computed: float = 0.0


class SimulatedTransport:
    """See the module.

    Parameters
    ----------
    workers : all of them, worker i at place i.
    seconds_per_shard : virtual seconds one shard's gradient takes.
    interrupted : asked between events; true raises Interrupted.
    checksums : replies corrupted on their way are found out.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        seconds_per_shard: float,
        interrupted: Callable[[], bool] = lambda: False,
        *,
        checksums: bool = False,
    ) -> None:
        self.n = len(workers)
        self.traffic = Traffic()
        self._desks = [_Desk(worker) for worker in workers]
        self._seconds_per_shard = seconds_per_shard
        self._interrupted = interrupted
        self._checksums = checksums
        self._task_bytes = TaskFormat(self.n, workers[0].layout.size).nbytes
        self._now = 0.0
        self._states: deque[WorkerState] = deque()
        self._trouble: deque[WorkerError | WorkerLost] = deque()
        self._events: list[tuple[float, int, int]] = []  # (when, worker, turn)

    def now(self) -> float:
        """Return virtual seconds since the start."""
        return self._now

    def send(self, worker: int, task: Task) -> None:
        """Give a worker a task, at once if it is idle or asleep."""
        desk = self._desks[worker]
        self.traffic.downlink += self._task_bytes
        if desk.gone:
            return
        if desk.job is None or desk.asleep:
            self._start(worker, desk, task)
        else:
            desk.waiting = task

    def load(self, state: WorkerState) -> None:
        """Hand a worker its state."""
        self._desks[state.worker].worker.load(state.saved)

    def save(self, worker: int, accepted: int) -> None:
        """Ask a worker for its state, which takes no time."""
        message = self._desks[worker].worker.save(accepted)
        self.traffic.control += HEADER_BYTES + message.size
        self._states.append(WorkerState(worker, accepted, message[HEADER_BYTES:]))

    def receive(self, until: float) -> Reply | WorkerState | None:
        """Run the workers up to the next reply, or to ``until``; states come first."""
        if self._trouble:
            raise self._trouble.popleft()
        if self._states:
            return self._states.popleft()
        while self._events and self._events[0][0] <= until:
            if self._interrupted():
                raise Interrupted("interrupted")
            when, worker, turn = heapq.heappop(self._events)
            desk = self._desks[worker]
            if turn != desk.turn:
                continue
            self._now = max(self._now, when)
            reply = self._resume(worker, desk)
            if self._trouble:
                raise self._trouble.popleft()
            if reply is None:
                continue
            if reply.corrupt and self._checksums:
                self.traffic.foreign += 1
                continue
            if reply.corrupt:
                flip_bits(reply.payload)
            self.traffic.uplink += reply.message.size
            return reply
        self._now = max(self._now, until)
        return None

    def close(self) -> int:
        """Drop all work. There is never a reply on its way: it would have been received."""
        for desk in self._desks:
            if desk.job is not None:
                desk.job.close()
            desk.job = None
        self._events.clear()
        return 0

    def _start(self, worker: int, desk: _Desk, task: Task) -> None:
        if desk.job is not None:
            desk.job.close()
        desk.job = desk.worker.handle(task)
        desk.waiting = None
        desk.slept = desk.computed = 0.0
        desk.turn += 1
        # The first pause comes before any work is done: running up to it here is free.
        self._advance(worker, desk)

    def _resume(self, worker: int, desk: _Desk) -> Reply | None:
        """A pause is over: take up a newer task, or go on to the next pause or the reply."""
        assert desk.job is not None
        if desk.waiting is not None:
            self._start(worker, desk, desk.waiting)
            return None
        desk.asleep = False
        return self._advance(worker, desk)

    def _advance(self, worker: int, desk: _Desk) -> Reply | None:
        """Go on to the next pause, or to the reply; what is raised on the way is for the next receive to tell."""
        assert desk.job is not None
        try:
            self._pause(worker, desk, next(desk.job))
        except StopIteration as done:
            desk.job = None
            reply: Reply = done.value
            return replace(reply, slept=desk.slept, computed=desk.computed)
        except GcdlError:
            raise
        except Exception as error:
            desk.job = None
            text = "".join(traceback.format_exception(error))
            self._trouble.append(WorkerError(f"worker {worker}: {error}", worker=worker, traceback=text))
        return None

    def _pause(self, worker: int, desk: _Desk, pause: Pause) -> None:
        if isinstance(pause, Sleep):
            desk.asleep = True
            seconds = desk.slept = pause.seconds
        elif isinstance(pause, Work):
            seconds = pause.shards * self._seconds_per_shard
            desk.computed += seconds
        elif isinstance(pause, Struck) and pause.fault.fault == "kill":
            desk.gone = True
            seconds = math.inf
            self._trouble.append(WorkerLost(worker, "killed by an injected fault"))
        elif isinstance(pause, Struck):
            seconds = pause.fault.seconds
        else:
            seconds = 0.0
        if math.isfinite(seconds):
            heapq.heappush(self._events, (self._now + seconds, worker, desk.turn))

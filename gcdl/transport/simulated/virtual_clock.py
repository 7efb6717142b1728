"""n workers in this process, on a virtual clock.

A worker sleeps and computes for as long as its delays and its shards say; messages and the master's own work take what
:mod:`gcdl.transport.simulated.network` says. A sleeping worker takes up a newer task at once, a computing one when it has
finished the shard it is at, as over MPI. What happens at the same instant happens in worker order. Gradients are computed
only where the reply is still wanted; without workers, nowhere: then only the clock runs (*timing only*).

A row of another code is there at once, and its shards take no time to load.

The seconds of a job are known when it begins: so the events of a step are found for all workers at once, in arrays, when its
tasks are sent. A later task can only take replies away that were to come after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gcdl.errors import GcdlError, Interrupted, WorkerError, WorkerLost
from gcdl.protocol.coding import CodeRow
from gcdl.protocol.ledger import Traffic
from gcdl.protocol.measurements import Rows
from gcdl.protocol.tasks import Joined, Loaded, Replies, Task, WorkerState
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.protocol.worker import Worker
from gcdl.stragglers import Delays, Fault, flip_bits
from gcdl.transport.simulated.arrivals import Arrivals
from gcdl.transport.simulated.faults import Blow, Mishaps, worker_error
from gcdl.transport.simulated.jobs import Jobs
from gcdl.transport.simulated.network import ONE_MASTER, Masters, Network, Sizes
from gcdl.types import Buffer, IntVector, Mask, Weights, aligned_buffer

_STALE: Buffer = aligned_buffer(0)
_HOLDS_BYTES = HEADER_BYTES + 16
"""By which a slice master tells rank 0 of a reply: over MPI, replies that have come together share a message."""


@dataclass(frozen=True, eq=False)
class Pace:
    """How long everything takes.

    ``loads``, (n,): gradients of a shard that each worker computes in a step; ``passes``: so many for each of its shards.
    ``delays``: step -> what is injected. ``seconds_per_shard``: step -> (n,) seconds
    that one shard's gradient takes each worker. ``d``: coordinates that a master decodes. ``task_bytes``: of the messages that
    bring a task to a worker with this version of the model, ``task_overhead`` of all of them not its content;
    ``reply_bytes``: of a reply's. ``masters``: how they share the work.
    """

    loads: IntVector
    delays: Callable[[int], Delays]
    seconds_per_shard: Callable[[int], Weights]
    d: int
    task_bytes: Callable[[Task, int], Sizes]
    task_overhead: int
    reply_bytes: Sizes
    network: Network
    masters: Masters = ONE_MASTER
    passes: int = 1


class SimulatedTransport:
    """See the module.

    Parameters
    ----------
    pace : of everything.
    workers : all of them, worker i at place i; None: timing only, replies then carry no message and no loss.
    interrupted : asked while replies are gathered; true raises Interrupted.
    faults : strike the workers here, so that the workers themselves have none.
    checksums : replies corrupted on their way are found out.
    first_version : of the model that the workers start with; see gcdl.downlinks.
    """

    def __init__(
        self,
        pace: Pace,
        workers: Sequence[Worker] | None,
        interrupted: Callable[[], bool] = lambda: False,
        *,
        faults: Sequence[Fault] = (),
        checksums: bool = False,
        first_version: int = 0,
    ) -> None:
        n = self.n = len(pace.loads)
        self.traffic = Traffic(n)
        self.link_seconds = 0.0
        """How long the link of a master was occupied, in either direction, while the master waited."""
        self.master_seconds = 0.0
        """How long a master decoded and stepped."""
        self._pace = pace
        self._network = pace.network
        self._workers = workers
        self._interrupted = interrupted
        self._checksums = checksums
        self._mishaps = Mishaps(faults)
        self._blows: dict[int, Blow] = {}
        """Of the newest job of each worker, where there is one."""
        self._trouble: dict[int, tuple[float, WorkerLost | WorkerError]] = {}
        """What the master will be told of which worker, and when."""
        self._corrupt: set[tuple[int, int]] = set()
        """Of which worker's reply to which step bits are flipped."""
        self._states: deque[WorkerState] = deque()
        self._now = 0.0
        self._task: Task | None = None
        self._addressees: list[int] = []
        """To whom the newest task goes; its events are not found yet."""
        self._leaves = np.full(n, -np.inf)
        """When the newest task to each worker leaves the master."""
        self._sizes = np.zeros((n, 2), dtype=np.int64)
        """Bytes of the newest task to each worker: as :class:`gcdl.transport.simulated.network.Sizes`."""
        self._held = np.full(n, first_version, dtype=np.int64)
        """The version of the model that each worker has, or is being sent; and the one that its newest task leads to."""
        self._leads_to = self._held.copy()
        self._jobs = Jobs(n)
        self._loads = pace.loads.copy()
        self._coding = 0
        """The number of the code that ``_loads`` belong to."""
        self._next_loads: dict[int, IntVector] = {}
        """By the number of a later code."""
        self._arrivals = Arrivals()
        self._since = self._out_until = 0.0

    def now(self) -> float:
        """Return virtual seconds since the start."""
        return self._now

    def send(self, worker: int, task: Task) -> None:
        """Give a worker a task."""
        self._task = task
        self._addressees.append(worker)

    def load(self, state: WorkerState) -> None:
        """Hand a worker its state."""
        assert self._workers is not None
        self._workers[state.worker].load(state.saved)

    def save(self, worker: int, accepted: int) -> None:
        """Ask a worker for its state, which takes no time."""
        assert self._workers is not None
        message = self._workers[worker].save(accepted)
        self.traffic.control += HEADER_BYTES + message.size
        self._states.append(WorkerState(worker, accepted, message[HEADER_BYTES:]))

    def recode(self, worker: int, number: int, row: CodeRow, *, fresh: bool) -> bool:
        """Give a worker its row of another code, at once."""
        loads = self._next_loads.setdefault(number, np.zeros(self.n, dtype=np.int64))
        loads[worker] = row.shards.size * self._pace.passes
        if self._workers is not None:
            self._workers[worker].prepare(number, self._workers[worker].load_row(row), fresh=fresh)
        return True

    def receive(self, until: float, at_most: int) -> Replies | WorkerState | Joined | Loaded | None:
        """Return the next replies, or None and go on to ``until``; states come first."""
        if self._states:
            return self._states.popleft()
        if self._addressees:
            self._dispatch(np.array(self._addressees))
            self._addressees.clear()
        if self._interrupted():
            raise Interrupted("interrupted")
        ends, worker = min(((ends, worker) for worker, (ends, _) in self._trouble.items()), default=(np.inf, -1))
        troubled = worker in self._trouble and ends <= until
        limit = ends if troubled else until
        count = min(int(np.searchsorted(self._arrivals.rows["received"], limit, side="left" if troubled else "right")), at_most)
        if count == 0:
            self._now = max(self._now, limit)
            if troubled:
                raise self._trouble.pop(worker)[1]
            return None
        rows = self._take(count)
        if not len(rows):
            return self.receive(until, at_most)
        return Replies(rows, [] if self._workers is None else [self._answer(row) for row in rows])

    def decoded(self, replies: int) -> None:
        """Let the seconds pass that deciding and decoding take."""
        per_reply = self._network.decode_seconds + self._pace.d * self._network.decode_seconds_per_coordinate
        self._consult(self._pace.masters.decision_bytes)
        self._work(replies * per_reply)
        self._consult(self._pace.masters.answer_bytes)

    def stepped(self) -> None:
        """Let the seconds pass that the optimizer takes."""
        self._consult(self._pace.masters.norm_bytes)
        self._work(self._network.step_seconds * self._pace.masters.share)

    def close(self) -> int:
        """Drop all work; return the number of replies that were on their way."""
        self._account()
        flying = self._arrivals.drop(self._now)
        self._count_up(flying)
        self._count_down(np.flatnonzero(self._leaves > self._now), -1)
        self._leaves[:] = -np.inf
        self._trouble.clear()
        return len(flying)

    def _take(self, count: int) -> Rows:
        """Take in the next replies, and return those that are not found to be damaged."""
        rows, ends = self._arrivals.take(count)
        self._now = max(self._now, float(rows["received"][-1]))
        occupation = self._pace.reply_bytes.largest / self._network.master_bandwidth
        self.link_seconds += float(np.maximum(ends - np.maximum(ends - occupation, self._out_until), 0.0).sum())
        if self._checksums and self._corrupt:
            rows = rows[[(int(row["worker"]), int(row["step"])) not in self._corrupt for row in rows]]
            self.traffic.foreign += count - len(rows)
        self._count_up(rows["worker"])
        return rows

    def _count_up(self, workers: IntVector) -> None:
        """Count a reply of each of these workers."""
        masters = self._pace.masters.count
        headers = masters * HEADER_BYTES
        np.add.at(self.traffic.up, workers, (self._pace.reply_bytes.together - headers, headers))
        self.traffic.control += len(workers) * (masters - 1) * _HOLDS_BYTES

    def _count_down(self, workers: IntVector, sign: int) -> None:
        """Count the newest task to each of these workers, or take it back."""
        self.traffic.down[workers, 0] += sign * (self._sizes[workers, 0] - self._pace.task_overhead)
        self.traffic.down[workers, 1] += sign * self._pace.task_overhead

    def _work(self, seconds: float) -> None:
        self._now += seconds
        self.master_seconds += seconds

    def _consult(self, nbytes: int) -> None:
        """Let a message of so many bytes go between rank 0 and each of the slice masters; 0: there is none."""
        if not nbytes:
            return
        together = (self._pace.masters.count - 1) * nbytes
        self.traffic.control += together
        began = self._now
        self._now += together / self._network.master_bandwidth
        self.link_seconds += max(0.0, self._now - max(began, self._out_until))
        self._now += self._network.latency

    def _answer(self, row: np.void) -> Buffer:
        """Let a worker do its newest job for real; a stale reply is never looked at."""
        assert self._workers is not None
        assert self._task is not None
        if row["step"] != self._task.step:
            return _STALE
        if self._interrupted():
            raise Interrupted("interrupted")
        worker = int(row["worker"])
        try:
            reply = self._workers[worker].finish(self._task)
        except GcdlError:
            raise
        except Exception as error:
            raise worker_error(worker, error) from error
        if (worker, self._task.step) in self._corrupt:
            flip_bits(reply.payload)
        row["loss"], row["clipped"] = reply.loss, reply.clipped
        return reply.message

    def _dispatch(self, to: IntVector) -> None:
        """Find what the newest task leads to: when it arrives, what it ends, and which replies come until the next one."""
        assert self._task is not None
        pace, jobs, step = self._pace, self._jobs, self._task.step
        if self._task.coding != self._coding:
            self._coding = self._task.coding
            self._loads = self._next_loads.pop(self._coding)
        self._account()
        arrives = np.full(self.n, np.inf)
        to, arrives[to] = self._queue(to)
        news = arrives[to]
        # Replies sent before the news arrive stay; what was to follow is dropped.
        self._arrivals.keep_sent_before(arrives)
        jobs.supersede(to, news)
        for worker in [worker for worker in self._blows if jobs.starts[worker] >= arrives[worker]]:
            self._spare(worker)
        jobs.place(to, news, pace.seconds_per_shard(step)[to])
        silent, slept = self._strike(step, to)
        replies = jobs.plan(to, step, self._loads, pace.delays(step), silent, slept)
        notes = self._network.latency if pace.masters.count > 1 else 0.0
        self._arrivals.add(replies, self._network, pace.reply_bytes, notes)

    def _strike(self, step: int, to: IntVector) -> tuple[Weights, Weights]:
        """Let the faults strike that are due; return for how many seconds each worker is stopped, and how many it sleeps."""
        silent, slept = np.zeros(len(to)), np.zeros(len(to))
        place = {int(worker): i for i, worker in enumerate(to)} if self._blows or self._mishaps.pending else {}
        for worker in place.keys() & self._blows.keys():
            del self._blows[worker]
        for worker in self._mishaps.workers(step):
            if worker in place:
                blow = self._blows[worker] = self._mishaps.blow(worker, step)
                silent[place[worker]], slept[place[worker]] = blow.silent, blow.slept
                if blow.corrupt:
                    self._corrupt.add((worker, step))
                if blow.end is not None:
                    self._trouble[worker] = (float(self._jobs.starts[worker]) + blow.ends, blow.end)
        return silent, slept

    def _spare(self, worker: int) -> None:
        """Take back what was to strike a worker's job: it never begins."""
        self._mishaps.put_back(self._blows.pop(worker))
        self._trouble.pop(worker, None)

    def _queue(self, to: IntVector) -> tuple[IntVector, Weights]:
        """Queue the newest task on the master's link; return the workers in that order, and when it reaches each."""
        assert self._task is not None
        leaves = self._leaves[to]
        waiting: Mask = leaves > self._now
        begun = to[~waiting]
        self._held[begun] = self._leads_to[begun]
        self._count_down(to[waiting], -1)
        last = int(np.argmax(np.where(self._leaves <= self._now, self._leaves, -np.inf)))
        free = self._now
        if self._leaves[last] <= self._now:
            free = max(free, float(self._leaves[last] + self._network.occupation(self._sizes[[last], 1], np.array([last]))[0]))
        to = to[np.argsort(np.where(waiting, leaves, np.inf), kind="stable")]
        for base in np.unique(self._held[to]).tolist():
            self._sizes[to[self._held[to] == base]] = self._pace.task_bytes(self._task, base)
        self._leads_to[to] = self._task.step
        self._count_down(to, 1)
        ends = free + np.cumsum(self._network.occupation(self._sizes[to, 1], to))
        self._leaves[to] = np.concatenate([[free], ends[:-1]])
        self._since = self._now
        self._out_until = float(ends[-1])
        return to, self._leaves[to] + self._network.transfer(self._sizes[to, 0], self._sizes[to, 1], to)

    def _account(self) -> None:
        """Count how long the link carried tasks since they were sent."""
        self.link_seconds += max(0.0, min(self._out_until, self._now) - self._since)
        self._since = self._out_until = self._now

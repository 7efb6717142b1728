"""A transport that delivers the replies that a run recorded, and no others; the workers compute them anew in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gcdl.errors import Interrupted
from gcdl.protocol.coding import CodeRow
from gcdl.protocol.ledger import Traffic
from gcdl.protocol.measurements import rows_of
from gcdl.protocol.tasks import Joined, Loaded, Replies, Task, WorkerState
from gcdl.protocol.worker import Worker
from gcdl.types import Mask


class ReplayTransport:
    """Hands over each step's replies in worker order, at once: the clock counts steps.

    Only the workers whose replies were used compute. That is enough: a worker's state changes with a reply that was used, and
    with no other.

    Parameters
    ----------
    workers : all of them, worker i at place i.
    replies : of each step, the ids of the workers used, ascending.
    fresh : of each step, the ids of the workers whose compressor began afresh before it.
    interrupted : asked before each reply; true raises Interrupted.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        replies: Sequence[Sequence[int]],
        fresh: Sequence[Sequence[int]],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.n = len(workers)
        self.traffic = Traffic()
        self._workers = workers
        self._replies = replies
        self._fresh = [list(workers) for workers in fresh]
        self._interrupted = interrupted
        self._task: Task | None = None
        self._delivered = -1

    def now(self) -> float:
        """Return the number of steps begun."""
        return 0.0 if self._task is None else float(self._task.step + 1)

    def send(self, worker: int, task: Task) -> None:
        """Note the task: who gets it does not matter."""
        self._task = task

    def load(self, state: WorkerState) -> None:
        """Do nothing: a replay starts at the first step, where no worker has a state."""

    def save(self, worker: int, accepted: int) -> None:
        """Do nothing: nobody writes a checkpoint."""

    def recode(self, worker: int, number: int, row: CodeRow, *, fresh: bool) -> bool:
        """Give a worker its row of another code, at once."""
        self._workers[worker].prepare(number, self._workers[worker].load_row(row), fresh=fresh)
        return True

    def receive(self, until: float, at_most: int) -> Replies | WorkerState | Joined | Loaded | None:
        """Return all of the step's replies; before them, each worker that began afresh, as if it had taken its own place."""
        assert self._task is not None
        step = self._task.step
        if self._fresh[step]:
            worker = self._fresh[step].pop(0)
            self._workers[worker].begin_afresh()
            return Joined(worker, f"worker {worker}")
        if self._delivered == step:
            return None
        self._delivered = step
        rows = rows_of(len(self._replies[step]))
        messages = []
        for row, worker in zip(rows, self._replies[step], strict=True):
            if self._interrupted():
                raise Interrupted("interrupted")
            reply = self._workers[worker].finish(self._task)
            row["worker"], row["step"], row["received"] = worker, step, self.now()
            row["loss"], row["clipped"] = reply.loss, reply.clipped
            messages.append(reply.message)
        return Replies(rows, messages)

    def decoded(self, replies: int) -> None:
        """Do nothing: the clock counts steps."""

    def stepped(self) -> None:
        """Do nothing: the clock counts steps."""

    def close(self) -> int:
        """Do nothing: no reply is on its way."""
        return 0


class AsRecorded:
    """The wait rule of a replay: what was used then is enough, and nothing is too few."""

    timeout = float("inf")
    patience = float("inf")

    def enough(self, arrived: Mask) -> bool:
        """All of a step's replies come together: there are never some missing."""
        return True

    def lacking(self, arrived: Mask) -> int:
        """Take all that come."""
        return len(arrived)

    def feasible(self, alive: Mask) -> bool:
        """It went on then, so it goes on now."""
        return True

    def losses_left(self, alive: Mask) -> int:
        """None is lost in a replay."""
        return len(alive)

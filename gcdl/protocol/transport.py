"""The one seam: how the master reaches its workers. Over MPI, or in one process on a virtual clock."""

from __future__ import annotations

from typing import Protocol

from gcdl.protocol.coding import CodeRow
from gcdl.protocol.ledger import Traffic
from gcdl.protocol.tasks import Joined, Loaded, Replies, Task, WorkerState


class Transport(Protocol):
    """The master's view. Worker ids are 0 .. n-1."""

    n: int
    traffic: Traffic

    def now(self) -> float:
        """Return seconds on this transport's clock, real or virtual."""
        ...

    def send(self, worker: int, task: Task) -> None:
        """Hand a task to a worker; it supersedes one that is unanswered. Never blocks."""
        ...

    def load(self, state: WorkerState) -> None:
        """Hand a worker, before its first task, the state its compressor begins with."""
        ...

    def save(self, worker: int, accepted: int) -> None:
        """Ask a worker for its compressor's state as of ``accepted``, its last decoded step. Never blocks.

        It drops the task it is at. Asked before the next step's task is sent, it can't have moved on.
        """
        ...

    def recode(self, worker: int, number: int, row: CodeRow, *, fresh: bool) -> bool:
        """Let a worker load the shards of its row of code ``number``; return whether it has them at once. Never blocks.

        Otherwise :meth:`receive` says when it has. The row holds from the first task on that has this number; ``fresh``: its
        compressor begins afresh then. Asked before the next step's task is sent, as :meth:`save`.
        """
        ...

    def receive(self, until: float, at_most: int) -> Replies | WorkerState | Joined | Loaded | None:
        """Return what comes next, or None when the clock has reached ``until``.

        That is replies, one at least and ``at_most`` so many; a state that was asked for; a worker that takes a lost one's
        place; or one that has loaded a row. What has come later than the last of the replies is not seen yet: the caller may
        stop waiting there. The reply to a worker's newest task stays valid until that worker is sent another; anything else
        until the next call.

        Raises
        ------
        WorkerLost : a worker's process is gone (once for each).
        WorkerError : a worker raised.
        Interrupted : the user wants to stop.
        """
        ...

    def decoded(self, replies: int) -> None:
        """The master has decoded so many replies. A real clock knows; a virtual one lets the seconds pass that this takes."""
        ...

    def stepped(self) -> None:
        """The optimizer has stepped; see :meth:`decoded`."""
        ...

    def close(self) -> int:
        """Stop the workers and drain what is on its way. Returns the number of replies dropped. Idempotent."""
        ...

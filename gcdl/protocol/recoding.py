"""Re-coding: another code takes over at a step boundary, while the run goes on.

A :class:`Recoder` is asked before each step whether another code is to hold. If so, each worker is told its new row, and loads
the shards that it lacks (:class:`CodeChange`). The old code goes on meanwhile, with the workers that it still has. The first
step that begins when all workers of the new code are ready is the new code's. Nothing of the model or of the optimizer changes.
The compressor of a worker whose row changed begins afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from gcdl.protocol.coding import Coding
from gcdl.protocol.measurements import StepTiming
from gcdl.protocol.membership import Membership
from gcdl.protocol.transport import Transport
from gcdl.types import Mask


class Recoder(Protocol):
    """Decides whether another code is to hold."""

    replaces_lost: bool
    """Whether it has a code for those that are left when too many workers are lost."""

    def wanted(self, step: int, coding: Coding, members: Membership) -> Coding | None:
        """Return another code; None: ``coding`` may stay. Asked before each step.

        ``coding``: the one that will hold next: it is being loaded, or it holds already.
        """
        ...

    def saw(self, step: int, coding: Coding, timing: StepTiming) -> None:
        """Take in what a step measured, which was decoded by ``coding``. Called after each step."""
        ...


class NeverRecode:
    """Keeps the code. A run that loses more workers than its wait rule tolerates then ends."""

    replaces_lost = False

    def wanted(self, step: int, coding: Coding, members: Membership) -> Coding | None:
        """Return None."""
        return None

    def saw(self, step: int, coding: Coding, timing: StepTiming) -> None:
        """Do nothing."""


class RecodeOnLoss(NeverRecode):
    """Gives the shards to the workers that are left when more are lost than the wait rule or the code can do without.

    Parameters
    ----------
    among : (workers, number) -> the code ``number``, in which these have a row.
    """

    replaces_lost = True

    def __init__(self, among: Callable[[Sequence[int], int], Coding]) -> None:
        self._among = among

    def wanted(self, step: int, coding: Coding, members: Membership) -> Coding | None:
        """Return a code for those that are left, if the wait rule can't be met any more, or nobody holds some shard."""
        left = members.expected()
        if not left.any() or (coding.wait.feasible(left) and coding.covers(left)):
            return None
        return self._among(np.flatnonzero(left).tolist(), coding.number + 1)


class RecodeAsRecorded(NeverRecode):
    """Changes the code in the steps in which a recorded run did.

    Parameters
    ----------
    codings : by step.
    """

    def __init__(self, codings: Mapping[int, Coding]) -> None:
        self._codings = codings

    def wanted(self, step: int, coding: Coding, members: Membership) -> Coding | None:
        """Return what the record says."""
        return self._codings.get(step)


class CodeChange:
    """Which code holds, which one is being loaded, and which workers have their rows.

    Parameters
    ----------
    coding : the code that the job starts with; every worker has its row.
    transport : the way to the workers.
    """

    def __init__(self, coding: Coding, transport: Transport) -> None:
        self.now = coding
        self.next: Coding | None = None
        self._transport = transport
        self._has_row: Mask = coding.members.copy()
        """Of the code that holds."""
        self._has_next: Mask = np.zeros_like(self._has_row)

    @property
    def following(self) -> Coding:
        """The code that will hold next."""
        return self.now if self.next is None else self.next

    def able(self, alive: Mask) -> Mask:
        """Return which of these workers, (n,), can be sent a task."""
        return alive & self._has_row

    def at_boundary(self, step: int, recoder: Recoder, members: Membership, await_news: Callable[[], None]) -> list[int] | None:
        """Begin with another code before a step, if one is wanted, and let it hold if all of its workers are ready.

        ``await_news`` is called while no worker can be sent a task. Returns the workers whose row is another now; None: the
        code is the same.
        """
        while True:
            wanted = recoder.wanted(step, self.following, members)
            if wanted is not None:
                self.begin(wanted, members.alive)
            if self.next is None or self.is_ready(members.alive) or self.able(members.alive).any():
                break
            await_news()
        return self.switch() if self.is_ready(members.alive) else None

    def begin(self, coding: Coding, alive: Mask) -> None:
        """Let the workers of another code load what they lack."""
        self.next = coding
        self._has_next[:] = False
        for worker in coding.workers:
            if alive[worker]:
                self._tell(worker, coding)

    def loaded(self, worker: int, number: int) -> bool:
        """Note that a worker has its row of code ``number``; return whether it is the one that holds."""
        if self.next is not None and number == self.next.number:
            self._has_next[worker] = True
        elif number == self.now.number:
            self._has_row[worker] = True
            return True
        return False

    def lost(self, worker: int) -> None:
        """Note that a worker is gone, and what it had loaded."""
        self._has_row[worker] = self._has_next[worker] = False

    def joined(self, worker: int) -> bool:
        """Let a process that has taken a lost worker's place load its rows; return whether it can be sent a task at once.

        It comes with the row of the code that the job started with.
        """
        if self.now.number == 0:
            self._has_row[worker] = self.now.members[worker]
        elif self.now.members[worker]:
            self._tell(worker, self.now)
        if self.next is not None and self.next.members[worker]:
            self._tell(worker, self.next)
        return bool(self._has_row[worker])

    def is_ready(self, alive: Mask) -> bool:
        """Say whether all of these workers, (n,), that have a part in the next code have loaded their rows."""
        wanted = np.zeros_like(alive) if self.next is None else alive & self.next.members
        return bool(wanted.any() and self._has_next[wanted].all())

    def switch(self) -> list[int]:
        """Let the next code hold; return the workers whose row is another now."""
        assert self.next is not None
        before, self.now, self.next = self.now, self.next, None
        self._has_row, self._has_next = self._has_next, np.zeros_like(self._has_next)
        return [worker for worker in range(self.now.code.n) if not self.now.same_row(worker, before)]

    def _tell(self, worker: int, coding: Coding) -> None:
        fresh = not (self._has_row[worker] and coding.same_row(worker, self.now))
        if self._transport.recode(worker, coding.number, coding.row(worker), fresh=fresh):
            self.loaded(worker, coding.number)

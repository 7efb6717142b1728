"""How the replies to a task are collected, while workers go, come, and load another code.

:class:`gcdl.protocol.master.Master` decides what a step is; this is what it does while it waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gcdl.errors import TooManyLost, WorkerLost
from gcdl.protocol.compressor_states import CompressorStates
from gcdl.protocol.gathered import Gathered
from gcdl.protocol.membership import Membership
from gcdl.protocol.recoding import CodeChange, Recoder
from gcdl.protocol.tasks import Joined, Loaded, Task, WorkerState
from gcdl.protocol.transport import Transport
from gcdl.protocol.wait_rules import LearnsReplyTimes, WaitRule
from gcdl.types import IntVector

_NEWS_SECONDS = 10.0


class Gathering:
    """Receives what workers send.

    Parameters
    ----------
    transport : the way to the workers.
    coding : the code that holds, and the one that is being loaded.
    members : who takes part.
    recoder : says when another code is to hold.
    accepted : (n,), the master's: the last step decoded with each worker's reply; -1: none.
    states : keeps the states of compressors that come.
    say : is told whom a step waits for when it waits long, and what has changed.

    Attributes
    ----------
    fresh : whose compressor has begun afresh since the last step.
    recoded : what is to be recorded of the code that the step began with; None: it is the one before.
    """

    def __init__(
        self,
        transport: Transport,
        coding: CodeChange,
        members: Membership,
        recoder: Recoder,
        accepted: IntVector,
        states: CompressorStates,
        say: Callable[[str], None],
    ) -> None:
        self._transport = transport
        self.coding = coding
        self.members = members
        self._recoder = recoder
        self._accepted = accepted
        self._states = states
        self._say = say
        self._n = accepted.size
        self.fresh: list[int] = []
        self.recoded: dict[str, Any] | None = None

    @property
    def _rule(self) -> WaitRule:
        return self.coding.now.wait

    def gather(self, task: Task, began: float) -> Gathered:
        """Collect replies to a task until the wait rule is met, or until it times out."""
        step, gathered = task.step, Gathered(self._n)
        arrived = gathered.arrived
        next_news = began + _NEWS_SECONDS
        learning = self._rule if isinstance(self._rule, LearnsReplyTimes) else None
        while True:
            expected = self.members.expected() & self.coding.now.members & ~arrived
            if learning is not None and arrived.any():
                learning.passed(self._transport.now() - began, expected)
            if arrived.any() and (not expected.any() or self._rule.enough(arrived)):
                return gathered
            patience = self._rule.patience if arrived.any() else self._rule.timeout
            until = began + min(patience, self._rule.timeout)
            try:
                received = self._transport.receive(min(until, next_news), self._rule.lacking(arrived))
            except WorkerLost as lost:
                self._part(lost, step)
                continue
            if isinstance(received, WorkerState):
                self._states.take(received)
            elif isinstance(received, Joined):
                self._welcome(received, task, gathered)
            elif isinstance(received, Loaded):
                if self.coding.loaded(received.worker, received.number) and not arrived[received.worker]:
                    self._transport.send(received.worker, task)
            elif received is not None:
                gathered.take(received, step)
            else:
                missing = ", ".join(str(worker) for worker in np.flatnonzero(expected))
                if next_news < until:
                    self._say(f"step {step}: waiting for workers {missing} ({next_news - began:.0f} s)")
                    next_news += _NEWS_SECONDS
                    continue
                if not arrived.any():
                    raise TooManyLost(
                        f"step {step}: no reply within [wait] timeout = {self._rule.timeout:g} s; waited for workers {missing}"
                    )
                gathered.timed_out = patience > self._rule.timeout
                return gathered

    def _part(self, lost: WorkerLost, step: int) -> None:
        """Go on without a worker. Raises TooManyLost."""
        self.coding.lost(lost.worker)
        self.members.leave(lost, step)

    def _welcome(self, joined: Joined, task: Task, gathered: Gathered) -> None:
        """Take in a worker that has joined in the middle of a step."""
        worker = joined.worker
        able = self._take_in(joined, task.step, self.fresh if not gathered.arrived[worker] else gathered.joined)
        if able and not gathered.arrived[worker]:
            self._transport.send(worker, task)

    def _take_in(self, joined: Joined, step: int, fresh: list[int]) -> bool:
        """Go on with another process in a lost worker's place; return whether it can be sent a task at once.

        Nothing of what the lost one left unsent is known. The worker is added to ``fresh``.
        """
        self.members.join(joined.worker, joined.name, step)
        self._forget(joined.worker)
        fresh.append(joined.worker)
        return self.coding.joined(joined.worker)

    def _forget(self, worker: int) -> None:
        """Note that a worker's compressor begins afresh."""
        self._accepted[worker] = -1
        self._states.forget(worker)

    def recode(self, step: int) -> None:
        """Let another code be loaded, if one is wanted, and let it hold once it is.

        Raises
        ------
        TooManyLost : the code that holds has no worker left, and the workers of the next do not come to load it.
        """
        until = self._transport.now() + self._rule.timeout
        changed = self.coding.at_boundary(step, self._recoder, self.members, lambda: self._await_rows(step, until))
        if changed is None:
            return
        for worker in changed:
            self._forget(worker)
        now = self.coding.now
        self.fresh += [worker for worker in changed if now.members[worker]]
        self.members.wait, self.recoded = now.wait, now.recorded()
        self._say(f"step {step}: re-coded for {len(now.workers)} workers: {now.name}")

    def _await_rows(self, step: int, until: float) -> None:
        """Take in what comes next while nobody can be sent a task."""
        try:
            received = self._transport.receive(until, self._n)
        except WorkerLost as lost:
            self._part(lost, step)
            return
        if isinstance(received, WorkerState):
            self._states.take(received)
        elif isinstance(received, Joined):
            self._take_in(received, step, self.fresh)
        elif isinstance(received, Loaded):
            self.coding.loaded(received.worker, received.number)
        elif received is None:
            raise TooManyLost(f"step {step}: nobody has loaded the shards of those lost within {self._rule.timeout:g} s")

"""What a worker computes at: kept up to date by its end of the downlink, from messages and from the boards of its host."""

from __future__ import annotations

import time
from typing import Any, Protocol

from gcdl.downlinks import UNKNOWN, Follower
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.tasks import Task
from gcdl.protocol.wire import Header
from gcdl.transport.mpi.backoff import Backoff
from gcdl.transport.mpi.shared_memory import Address, Board, Boards, Posted, Reference
from gcdl.types import Buffer

_LEAST_SECONDS = 0.05
_MOST_SECONDS = 60.0
_TIMES = 4.0


class _Polled(Protocol):
    """An inbox."""

    def poll(self) -> bool: ...


class Model:
    """See the module.

    Parameters
    ----------
    follower : the worker's end of the downlink.
    task_format : how tasks lie in memory.

    Attributes
    ----------
    most_bytes : of a task's message.
    address : of the board on which the worker posts what it is told to; None: it has none.
    post_under : the number under which the content of the next task is to be posted; 0: it is not.
    complaint : what to tell the master of the last task that could not be taken in; None: it has been told before.
    """

    def __init__(self, follower: Follower, task_format: TaskFormat) -> None:
        self.damage = follower.damage
        self.most_bytes = task_format.overhead_bytes + follower.body_bytes
        self.post_under = 0
        self.complaint: dict[str, Any] | None = None
        self._follower = follower
        self._format = task_format
        self._boards = Boards()
        self._board: Board | None = None
        try:
            self._board = Board(follower.body_bytes)
        except (OSError, AttributeError):  # no memory, or not on this system
            self._board = None
        self._posted: Posted | None = None
        self._patience = 1.0
        self._lacking = False

    @property
    def address(self) -> Address | None:
        """See the class."""
        return None if self._board is None else self._board.address

    def take_in(self, header: Header, buffer: Buffer, inbox: _Polled) -> Task | None:
        """Take in what a task brings, and return the task; None: it can't be worked on, or not any more."""
        brought = self._format.read(header, buffer)
        content: Buffer | None = brought.content
        reference = Reference.read(brought.content)
        self._posted = None
        reads = True
        if reference is not None:
            try:
                self._posted = self._look(reference, inbox)
            except OSError:
                reads = False
            if self._posted is None and self._overtaken(inbox):
                self.complaint = None
                return None
            content = None if self._posted is None else self._posted.content
        elif self.post_under and self._board is not None:
            self._board.put(self.post_under, brought.content)
        self.post_under = 0
        model = None if content is None else self._follower.follow(content)
        wrong = model is None and content is not None and self._follower.wrong
        if self._posted is not None and not self._follower.in_place and not self._posted.intact():
            # The board was written again while it was read.
            self._follower.version, model, wrong = UNKNOWN, None, True
        if model is None:
            # Tasks that were on their way already lead on from what is lacking too: of these the master is not told again.
            # But a model that was sent because it was lacking, and is wrong again, is another failure.
            told = self._lacking and not wrong
            version = self._follower.version
            self.complaint = None if told else {"version": version, "wrong": wrong, "reads": reads}
            self._lacking = True
            return None
        self._lacking = False
        return Task(header.step, brought.accepted, model, brought.agreed, coding=header.coding)

    def intact(self) -> bool:
        """Say whether the model is still what it was when it was taken in: a board is written anew some steps later."""
        return self._posted is None or not self._follower.in_place or self._posted.intact()

    def _overtaken(self, inbox: _Polled) -> bool:
        """Say whether a newer task has come that brings all that this one would."""
        return self._follower.in_place and inbox.poll()

    def _look(self, reference: Reference, inbox: _Polled) -> Posted | None:
        """Wait for what is referred to, not for long: None. Raises OSError if this process can't look."""
        began = time.monotonic()
        backoff = Backoff()
        while (found := self._boards.find(reference)) is None:
            waited = time.monotonic() - began
            if waited > self._patience:
                self._patience = min(2.0 * self._patience, _MOST_SECONDS)
                return None
            if self._overtaken(inbox):
                return None
            backoff.sleep(_LEAST_SECONDS)
        self._patience = max(_LEAST_SECONDS, _TIMES * (time.monotonic() - began), 0.9 * self._patience)
        return found

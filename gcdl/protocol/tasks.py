"""What master and workers hand to a transport, and what it hands to them: tasks, replies, states. In memory, not in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gcdl.downlinks import Content
from gcdl.protocol.measurements import Rows, rows_of
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.types import Buffer, IntVector, Vector


@dataclass(frozen=True, eq=False, slots=True)
class Task:
    """Compute the coded gradient of step ``step`` at ``model``, (d,).

    ``accepted``, (n,): the last step decoded with each worker's reply, -1 for none yet. ``agreed``, (G,): the scales that the
    workers agreed on, if they do. ``content``: what a worker elsewhere has to be sent for it to have the model. ``coding``: the
    number of the code whose rows hold (:mod:`gcdl.protocol.coding`).
    """

    step: int
    accepted: IntVector
    model: Vector
    agreed: Vector | None = None
    content: Content | None = None
    coding: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Reply:
    """Worker ``worker``'s compressed coded gradient of step ``step``, and its coded loss.

    ``message`` is the whole message, its payload starting at HEADER_BYTES. Seconds that its worker spent: ``slept`` (injected,
    before computing), ``computed``, ``held`` (injected, after it), ``encoded``.
    """

    worker: int
    step: int
    loss: float
    message: Buffer
    slept: float = 0.0
    computed: float = 0.0
    held: float = 0.0
    encoded: float = 0.0
    clipped: int = 0
    """Coordinates that lay beyond the scale agreed on."""
    corrupt: bool = False
    """A fault: bits are to be flipped on the way."""

    @property
    def payload(self) -> Buffer:
        """The compressor's bytes."""
        return self.message[HEADER_BYTES:]


@dataclass(frozen=True, eq=False, slots=True)
class Replies:
    """Replies that a transport hands over together, in the order they came: their table, and their messages beside it.

    ``messages`` is empty where a transport moves no data.
    """

    rows: Rows
    messages: Sequence[Buffer]

    @classmethod
    def of(cls, replies: Sequence[Reply], received: float) -> Replies:
        """Return replies that came at ``received``."""
        rows = rows_of(len(replies))
        rows[:] = [
            (one.worker, one.step, received, one.loss, one.slept, one.computed, one.held, one.encoded, one.clipped)
            for one in replies
        ]
        return cls(rows, [one.message for one in replies])


@dataclass(frozen=True, eq=False, slots=True)
class WorkerState:
    """Worker ``worker``'s compressor state, (state_bytes,) uint8, as of ``accepted``, its last decoded step; or a part of it.

    ``offset``: where in the state ``saved`` begins. Parts come in their order.
    """

    worker: int
    accepted: int
    saved: Buffer
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Joined:
    """A spare rank has taken a lost worker's place, and has loaded its data."""

    worker: int
    name: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """A worker has loaded the shards of its row of code ``number``."""

    worker: int
    number: int

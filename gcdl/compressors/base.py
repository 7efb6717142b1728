"""What a compressor is: a recipe (its parameters) that makes a codec for one model's layout.

The recipe is small and frozen; the codec holds scratch buffers, allocated once. Whoever calls keeps the state and passes
it back in, so that a checkpoint can hold it. Payload of all sign compressors: ceil(d/8) bytes of bits in coordinate order
(``numpy.packbits``), then one or two float32 per tensor, or per block of one, where the compressor has scales.

No codec looks for NaN or infinities, which have no sign to send: the worker does so before it compresses, and raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.votes import Votes
from gcdl.types import Buffer, Layout, Vector

State = Any
"""What a codec wants back the next time; None for the stateless ones."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What has to be known of a message beside its bytes: the key of its random numbers, and the scales agreed on, if any.

    ``shift``, 0 .. 2^16 - 1, is the worker's place under correlated dither, in 2^-16 of the range. ``agreed``, (G,): one
    scale for all workers, in place of each one's own; see :meth:`Codec.agree`.
    """

    seed: int
    step: int
    worker: int
    shift: int
    agreed: Vector | None = field(default=None, compare=False)


class Message(NamedTuple):
    """One compressed vector on its way into a sum."""

    payload: Buffer
    weight: float
    draw: Draw


class Codec(Protocol):
    """A compressor at work on vectors of one layout. Not shared between threads: it owns scratch buffers."""

    payload_bytes: int
    state_bytes: int
    """The size of a dumped state; 0: there is none."""
    agreed_count: int
    """G, how many scales the workers agree on; 0: each has its own, or there are none."""
    threads: int
    """How many threads decode, 1 at first. The bits do not depend on it."""

    @property
    def clipped(self) -> int:
        """How many coordinates of the last vector compressed lay beyond the scale agreed on."""
        ...

    def init(self) -> State:
        """Return the state before the first step."""
        ...

    def settle(self, state: State, accepted: int) -> State:
        """Take in that the last reply used by the master was the one of step ``accepted`` (-1: none yet)."""
        ...

    def compress(self, x: Vector, state: State, draw: Draw, out: Buffer, plus: Vector | None = None) -> State:
        """Write Q(x + plus) for x, (d,), into ``out``, (payload_bytes,). Leaves x + plus in x. Returns the new state."""
        ...

    def remainder(self, x: Vector, payload: Buffer, draw: Draw, into: Vector) -> None:
        """Overwrite ``into``, (d,), with x - Q(x), the payload being that of x."""
        ...

    def decode(self, messages: Sequence[Message], into: Vector) -> None:
        """Overwrite ``into``, (d,), with the weighted sum of the messages, added up in the order given."""
        ...

    def agree(self, payloads: Sequence[Buffer]) -> Vector | None:
        """Return the scales, (G,), that all workers should use in the next step, by those these messages would have had.

        None: nothing to agree on.
        """
        ...

    def votes(self, messages: Sequence[Message]) -> Votes | None:
        """Return the weighted sum of the messages' bits, where their scales and weights make it a sum of votes; else None."""
        ...

    def decode_votes(self, votes: Votes, senders: Sequence[tuple[float, Draw]], into: Vector) -> None:
        """As :meth:`decode`, to the bit, from the votes and each message's weight and draw."""
        ...

    def dump(self, state: State, out: Buffer) -> None:
        """Write a settled state to ``out``, (state_bytes,), for a checkpoint."""
        ...

    def load(self, saved: Buffer) -> State:
        """Return the state that was dumped to ``saved``, (state_bytes,), as a copy."""
        ...

    def energies(self, payload: Buffer, agreed: Vector | None = None) -> NDArray[np.float64]:
        """Return estimates of ||x||^2 and of E||Q(x) - x||^2 for the x behind a message, (blocks, 2): a row for each block.

        An MMSE decoder goes by their sums. They are kept by block, so that several masters can add them up as one does.
        """
        ...


class Compressor(Protocol):
    """The recipe."""

    def codec(self, layout: Layout) -> Codec:
        """Allocate what compressing and decoding vectors of this layout needs."""
        ...


class Voteless:
    """The part of a codec whose messages are no votes, and whose workers agree on nothing."""

    agreed_count = 0
    clipped = 0

    def agree(self, payloads: Sequence[Buffer]) -> Vector | None:
        """Return None: there is nothing to agree on."""
        return None

    def votes(self, messages: Sequence[Message]) -> Votes | None:
        """Return None."""
        return None

    def decode_votes(self, votes: Votes, senders: Sequence[tuple[float, Draw]], into: Vector) -> None:
        """Never called: there are no votes."""
        raise NotImplementedError


class Stateless:
    """The part of a codec that needs no state."""

    state_bytes = 0

    def init(self) -> State:
        """Return None: nothing to keep."""
        return None

    def settle(self, state: State, accepted: int) -> State:
        """Return the state as it is: whether a reply was used changes nothing."""
        return state

    def dump(self, state: State, out: Buffer) -> None:
        """Write nothing."""

    def load(self, saved: Buffer) -> State:
        """Return None: nothing was kept."""
        return None

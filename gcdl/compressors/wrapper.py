"""A codec around another one, with a (d,) vector of its own that changes only when the master has used a reply.

It is a residual (:mod:`gcdl.compressors.error_feedback`) or a momentum (:mod:`gcdl.compressors.momentum`). A straggler's
reply may be dropped, and a worker may be called away before it replies; when that happens depends on the clock. So compressing
only makes a candidate. The next task says which reply was used last, and :meth:`WrapperCodec.settle` adopts the candidate if
it was that one. Then the arrived sets alone decide every worker's vector: over MPI, simulated, resumed and replayed alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.base import Codec, Draw, Message, State
from gcdl.compressors.votes import Votes
from gcdl.types import Buffer, Layout, Vector


@dataclass
class WrapperState:
    """``kept``, (d,): the vector. ``candidate``, (d,): what it becomes if the reply of ``step`` is used; -1: there is none.

    Both are arrays, or tensors of the device that the gradient lies on.
    """

    kept: Any
    candidate: Any
    step: int
    inner: State


class Memory(Protocol):
    """Where a wrapper's vectors lie."""

    def zeros(self, d: int) -> Any:
        """Return (d,) float32 zeros."""
        ...

    def copy_out(self, vector: Any, out: Buffer) -> None:
        """Copy a vector, (d,), to ``out``, (4 d,), on the host."""
        ...

    def copy_in(self, saved: Buffer, vector: Any) -> None:
        """Overwrite a vector, (d,), with ``saved``, (4 d,), on the host."""
        ...


class HostMemory:
    """This process's memory."""

    def zeros(self, d: int) -> Vector:
        """Return (d,) zeros."""
        return np.zeros(d, dtype=np.float32)

    def copy_out(self, vector: Vector, out: Buffer) -> None:
        """Copy a vector to ``out``."""
        out[:] = vector.view(np.uint8)

    def copy_in(self, saved: Buffer, vector: Vector) -> None:
        """Overwrite a vector with ``saved``."""
        vector.view(np.uint8)[:] = saved


class WrapperCodec(ABC):
    """What all wrappers share: the accepted-reply rule, saving and loading, and decoding, which is the inner codec's."""

    def __init__(self, inner: Codec, layout: Layout, memory: Memory | None = None) -> None:
        self.inner = inner
        self.payload_bytes = inner.payload_bytes
        self.state_bytes = 4 * layout.size + inner.state_bytes
        self.agreed_count = inner.agreed_count
        self.layout = layout
        self._d = layout.size
        self._memory: Memory = HostMemory() if memory is None else memory

    def init(self) -> WrapperState:
        """Return zeros."""
        return WrapperState(self._memory.zeros(self._d), self._memory.zeros(self._d), -1, self.inner.init())

    def settle(self, state: WrapperState, accepted: int) -> WrapperState:
        """Adopt the candidate if its reply was the last one used; forget it otherwise."""
        inner = self.inner.settle(state.inner, accepted)
        if state.step >= 0 and state.step == accepted:
            return WrapperState(state.candidate, state.kept, -1, inner)
        return WrapperState(state.kept, state.candidate, -1, inner)

    @abstractmethod
    def compress(self, x: Vector, state: WrapperState, draw: Draw, out: Buffer, plus: Vector | None = None) -> WrapperState:
        """Compress as a codec does. May write to ``state.candidate``; leaves ``state.kept`` as it is."""
        ...

    def dump(self, state: WrapperState, out: Buffer) -> None:
        """Write the vector, (d,) float32, then the inner state."""
        self._memory.copy_out(state.kept, out[: 4 * self._d])
        self.inner.dump(state.inner, out[4 * self._d :])

    def load(self, saved: Buffer) -> WrapperState:
        """Return the state that was dumped."""
        state = self.init()
        self._memory.copy_in(saved[: 4 * self._d], state.kept)
        state.inner = self.inner.load(saved[4 * self._d :])
        return state

    def remainder(self, x: Vector, payload: Buffer, draw: Draw, into: Vector) -> None:
        """Overwrite ``into`` with x - Q(x), x being what ``compress`` left in it: what was sent."""
        self.inner.remainder(x, payload, draw, into)

    @property
    def threads(self) -> int:
        """How many threads the inner compressor decodes with."""
        return self.inner.threads

    @threads.setter
    def threads(self, count: int) -> None:
        self.inner.threads = count

    def decode(self, messages: Sequence[Message], into: Vector) -> None:
        """Overwrite ``into`` with the weighted sum of the messages, as the inner compressor decodes them."""
        self.inner.decode(messages, into)

    @property
    def clipped(self) -> int:
        """What the inner compressor says."""
        return self.inner.clipped

    def agree(self, payloads: Sequence[Buffer]) -> Vector | None:
        """Return the inner compressor's scales."""
        return self.inner.agree(payloads)

    def votes(self, messages: Sequence[Message]) -> Votes | None:
        """Return the inner compressor's votes."""
        return self.inner.votes(messages)

    def decode_votes(self, votes: Votes, senders: Sequence[tuple[float, Draw]], into: Vector) -> None:
        """Decode as the inner compressor does."""
        self.inner.decode_votes(votes, senders, into)

    def energies(self, payload: Buffer, agreed: Vector | None = None) -> NDArray[np.float64]:
        """Return what the inner compressor says: of the vector that was sent, not of the gradient."""
        return self.inner.energies(payload, agreed)

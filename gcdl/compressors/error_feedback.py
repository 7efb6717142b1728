"""Error feedback around any compressor: keep what was not sent, and add it to the next gradient.

    y = x + e,   send Q(y),   r = y - Q(y),   e <- r once the master has used the reply.

Source: Seide et al. 2014; Karimireddy et al., ICML 2019; with gradient codes COCO-EF (Li, Xiao, Skoglund, arXiv
2603.16353). A straggler's reply may be dropped; then nothing of y was applied, and the residual must stay what it was.
So r is only a candidate until the next task says that this reply was used (:meth:`settle`). Kept in gradient units: the
learning rate is the master's.

Bias: that of the inner compressor in each step, but the sum of what is sent is within one residual of the sum of x. Variance:
the inner one's, at y. A coordinate that is exactly zero gets back what its bit gave it too much: no drift. A NaN or an
infinity never gets here: the worker raises before x is added to e.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.base import Codec, Compressor, Draw, Message, State
from gcdl.compressors.votes import Votes
from gcdl.types import Buffer, Layout, Vector


@dataclass(frozen=True)
class ErrorFeedback:
    """A compressor with a memory of what it left out."""

    inner: Compressor

    def codec(self, layout: Layout) -> ErrorFeedbackCodec:
        """Return a codec with the inner compressor's payload."""
        return ErrorFeedbackCodec(self.inner.codec(layout), layout)


@dataclass
class Residual:
    """``kept``, (d,): e. ``candidate``, (d,): r of the reply sent at ``step``; -1 when there is none.

    Both are arrays, or tensors of the device that the gradient lies on.
    """

    kept: Any
    candidate: Any
    step: int
    inner: State


class ErrorFeedbackCodec:
    """The wrapper at work; two d-sized vectors, allocated once."""

    def __init__(self, inner: Codec, layout: Layout) -> None:
        self.inner = inner
        self.payload_bytes = inner.payload_bytes
        self.state_bytes = 4 * layout.size + inner.state_bytes
        self.agreed_count = inner.agreed_count
        self.layout = layout
        self._d = layout.size

    def init(self) -> Residual:
        """Return a residual of zeros."""
        return Residual(np.zeros(self._d, dtype=np.float32), np.zeros(self._d, dtype=np.float32), -1, self.inner.init())

    def settle(self, state: Residual, accepted: int) -> Residual:
        """Adopt the candidate if its reply was the last one used; forget it otherwise."""
        inner = self.inner.settle(state.inner, accepted)
        if state.step >= 0 and state.step == accepted:
            return Residual(state.candidate, state.kept, -1, inner)
        return Residual(state.kept, state.candidate, -1, inner)

    def dump(self, state: Residual, out: Buffer) -> None:
        """Write e, (d,) float32, then the inner state."""
        out[: 4 * self._d] = state.kept.view(np.uint8)
        self.inner.dump(state.inner, out[4 * self._d :])

    def load(self, saved: Buffer) -> Residual:
        """Return the residual that was dumped."""
        state = self.init()
        state.kept.view(np.uint8)[:] = saved[: 4 * self._d]
        state.inner = self.inner.load(saved[4 * self._d :])
        return state

    def compress(self, x: Vector, state: Residual, draw: Draw, out: Buffer, plus: Vector | None = None) -> Residual:
        """Write Q(x + e); the candidate becomes x + e - Q(x + e)."""
        if plus is not None:
            x += plus
        inner = self.inner.compress(x, state.inner, draw, out, state.kept)
        self.inner.remainder(x, out, draw, state.candidate)
        return Residual(state.kept, state.candidate, draw.step, inner)

    def remainder(self, x: Vector, payload: Buffer, draw: Draw, into: Vector) -> None:
        """Overwrite ``into`` with x - Q(x), x being what was sent: the residual is in it."""
        self.inner.remainder(x, payload, draw, into)

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
        """Return what the inner compressor says: of x + e, not of x."""
        return self.inner.energies(payload, agreed)

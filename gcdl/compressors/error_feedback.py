"""Error feedback around any compressor: keep what was not sent, and add it to the next gradient.

    y = x + e,   send Q(y),   r = decay (y - Q(y)),   e <- r once the master has used the reply.

Source: Seide et al. 2014; Karimireddy et al., ICML 2019; with gradient codes COCO-EF (Li, Xiao, Skoglund, arXiv
2603.16353). A straggler's reply may be dropped; then nothing of y was applied, and the residual must stay what it was.
So r is only a candidate until the next task says that this reply was used (:mod:`gcdl.compressors.wrapper`). Kept in
gradient units: the learning rate is the master's.

With ``decay`` below 1 the worker forgets: what could not be said for long belongs to a model that is gone. COCO-EF with signs
in groups (``scaled_sign`` with ``block``) trained better with 0.9.

Bias: that of the inner compressor in each step. With ``decay`` = 1 the sum of what is sent is within one residual of the sum of
x. Variance: the inner one's, at y. A coordinate that is exactly zero gets back what its bit gave it too much: no drift. A NaN
or an infinity never gets here: the worker raises before x is added to e.
"""

from __future__ import annotations

from dataclasses import dataclass

from gcdl.compressors.base import Codec, Compressor, Draw
from gcdl.compressors.wrapper import Memory, WrapperCodec, WrapperState
from gcdl.types import Buffer, Layout, Vector


@dataclass(frozen=True)
class ErrorFeedback:
    """A compressor with a memory of what it left out.

    Parameters
    ----------
    inner : compresses y.
    decay : share of the residual that is kept; 1: all of it.
    """

    inner: Compressor
    decay: float = 1.0

    def codec(self, layout: Layout) -> ErrorFeedbackCodec:
        """Return a codec with the inner compressor's payload."""
        return ErrorFeedbackCodec(self.inner.codec(layout), layout, self.decay)


class ErrorFeedbackCodec(WrapperCodec):
    """The wrapper at work; ``kept`` is e, ``candidate`` r."""

    def __init__(self, inner: Codec, layout: Layout, decay: float = 1.0, memory: Memory | None = None) -> None:
        super().__init__(inner, layout, memory)
        self.decay = decay

    def compress(self, x: Vector, state: WrapperState, draw: Draw, out: Buffer, plus: Vector | None = None) -> WrapperState:
        """Write Q(x + e); the candidate becomes decay (x + e - Q(x + e))."""
        if plus is not None:
            x += plus
        inner = self.inner.compress(x, state.inner, draw, out, state.kept)
        self.inner.remainder(x, out, draw, state.candidate)
        if self.decay != 1.0:
            state.candidate *= self.decay
        return WrapperState(state.kept, state.candidate, draw.step, inner)

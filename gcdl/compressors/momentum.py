"""Worker momentum around any compressor: each worker sends the sign of a momentum of its own, not of one noisy gradient.

With x the coded gradient and m the momentum, both (d,), zero at first:

    u = beta1 m + (1 - beta1) x,    send Q(u),    m <- beta2 m + (1 - beta2) x  once the master has used the reply.

- *Lion* (beta1 = 0.9, beta2 = 0.99): Chen et al., *Symbolic Discovery of Optimization Algorithms*, NeurIPS 2023; distributed,
  Liu et al., *Communication Efficient Distributed Training with Distributed Lion*, arXiv 2404.00438.
- *Signum* (beta1 = beta2 = 0.9): what is sent is what is kept. Bernstein et al., *signSGD*, ICML 2018.

With ``kind = "sign"`` this is Distributed Lion. The master averages the votes and steps any optimizer, or it takes the sign of
their sum: ``optimizer.kind = "sign"``, whose weight decay is decoupled as Lion's is.

m changes only when a reply is used (:mod:`gcdl.compressors.wrapper`); in Liu et al. every worker replies in each step. Bias: u
is a mean of old gradients, about 1 / (1 - beta2) used replies deep; the noise of minibatches is averaged before its sign is
taken. Error feedback goes inside: the residual is that of u. State: d floats a worker. A NaN or an infinity never gets here:
the worker raises before x enters the momentum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gcdl.compressors.base import Codec, Compressor, Draw
from gcdl.compressors.wrapper import Memory, WrapperCodec, WrapperState
from gcdl.errors import ParameterError
from gcdl.types import Buffer, Layout, Vector

MomentumName = Literal["lion", "signum"]


@dataclass(frozen=True)
class Momentum:
    """A compressor of a worker's momentum.

    Parameters
    ----------
    inner : compresses u.
    beta1 : share of the momentum in what is sent.
    beta2 : share of the momentum in the next momentum.
    """

    inner: Compressor
    beta1: float = 0.9
    beta2: float = 0.99

    @classmethod
    def named(cls, name: MomentumName, inner: Compressor, beta1: float | None = None, beta2: float | None = None) -> Momentum:
        """Return Lion's or Signum's; a beta that is None has the value of its paper.

        Raises
        ------
        ParameterError : Signum is given a second beta.
        """
        beta1 = 0.9 if beta1 is None else beta1
        if name == "lion":
            return cls(inner, beta1, 0.99 if beta2 is None else beta2)
        if beta2 is not None:
            raise ParameterError(f"beta2: {beta2}: signum has beta1 alone: it sends the momentum that it keeps")
        return cls(inner, beta1, beta1)

    def codec(self, layout: Layout) -> MomentumCodec:
        """Return a codec with the inner compressor's payload."""
        return MomentumCodec(self.inner.codec(layout), layout, self.beta1, self.beta2)


class MomentumCodec(WrapperCodec):
    """The wrapper at work; ``kept`` is m. Arrays and tensors alike: only operators that both have, in the same order."""

    def __init__(self, inner: Codec, layout: Layout, beta1: float, beta2: float, memory: Memory | None = None) -> None:
        super().__init__(inner, layout, memory)
        self.beta1 = beta1
        self.beta2 = beta2
        self._change = self._memory.zeros(layout.size)

    def compress(self, x: Vector, state: WrapperState, draw: Draw, out: Buffer, plus: Vector | None = None) -> WrapperState:
        """Write Q(u), and leave u in x; the candidate becomes the next momentum."""
        if plus is not None:
            x += plus
        change, following = self._change, state.candidate
        change[:] = state.kept
        change -= x
        following[:] = change
        following *= self.beta2
        following += x
        change *= self.beta1
        x += change
        inner = self.inner.compress(x, state.inner, draw, out)
        return WrapperState(state.kept, following, draw.step, inner)

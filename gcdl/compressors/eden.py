"""EDEN: rotate at random, send the signs, rotate back: Q(x) = M R^T sign(R x), with M = ||R x||_2^2 / ||R x||_1.

Source: Vargaftik et al., *EDEN: Communication-Efficient and Robust Distributed Mean Estimation for Federated Learning*, ICML
2022 (arXiv 2108.08842); at one bit it is their DRIVE (NeurIPS 2021). A rotated vector looks normal whatever it was, so one bit
and one scale suit it: E||Q(x) - x||^2 = (pi/2 - 1) ||x||^2, 0.571. Unbiased for a uniformly random rotation.

Where we differ: R is a randomised Hadamard transform of pieces of 2^12 coordinates of the flat vector, across tensors, each
with an M of its own (:mod:`gcdl.compressors.kernels.rotation`); it is unbiased but for a term that vanishes with the piece's
size. R is recreated from (seed, step, worker), so nothing of it is sent: ceil(d/8) bytes + 4 a piece.

- ``rotation = "own"``: each worker's rotation is its own. Errors are independent: the mean of n has 1/n of the variance. The
  master rotates every reply back.
- ``rotation = "shared"``: one rotation for all in a step. The master adds up, and rotates back once. Deterministic signs then
  err alike where gradients are alike. So this goes with ``dither``, which compares R x with noise as the stochastic sign does,
  with M = clip * rms, and with ``agreed`` scales, by which replies are votes.

A piece of zeros has M = 0 and decodes to zeros. A NaN or an infinity never gets here: the worker raises first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gcdl.compressors import scales
from gcdl.compressors.base import Draw, Message, State
from gcdl.compressors.dither import DitherName, first_word
from gcdl.compressors.kernels import Kernels, Rows, Stream16, Streams, pieces
from gcdl.compressors.noise import UniformNoise
from gcdl.compressors.scale_groups import Block
from gcdl.compressors.sign_codec import SignCodec, lost_share
from gcdl.compressors.votes import Votes
from gcdl.errors import ParameterError
from gcdl.types import Buffer, Layout, Positive, Stream, Vector, aligned_vector, seed_words


@dataclass(frozen=True)
class Eden:
    """One bit of the rotated vector.

    Parameters
    ----------
    rotation : each worker's own, or one that all share in a step.
    dither : with a shared rotation: compare with noise, and how the workers' noise relates; None: the sign as it is.
    clip : M = clip * rms where there is a dither.
    agreed, margin : as for the stochastic sign; with a shared rotation.

    Raises
    ------
    ParameterError : a dither or agreed scales without a shared rotation.
    """

    rotation: Literal["own", "shared"] = "own"
    dither: DitherName | None = None
    clip: Positive = 1.5
    agreed: bool | None = None
    margin: Positive = 1.2

    def __post_init__(self) -> None:
        for key, given in (("dither", self.dither is not None), ("agreed", bool(self.agreed))):
            if given and self.rotation == "own":
                raise ParameterError(f'{key}: needs rotation = "shared": with its own rotation a worker shares nothing')

    def codec(self, layout: Layout) -> EdenCodec:
        """Return a codec of ceil(d/8) + 4 G bytes a message, G the number of pieces."""
        sizes = pieces(layout.size)
        turned = Layout(tuple(map(str, range(len(sizes)))), tuple((size,) for size in sizes))
        margin = self.margin if self.agreed else 0.0
        if self.dither is None:
            return EdenCodec(
                turned, self.rotation, scale=scales.unbiased(), margin=margin, signal_share=lambda size: 2.0 / math.pi
            )
        noise = UniformNoise(self.dither)
        return EdenCodec(
            turned,
            self.rotation,
            scale=scales.rms(self.clip),
            noise=noise,
            margin=margin,
            signal_share=lambda size: 1.0 / self.clip**2,
            noise_share=(lambda share: 1.0 / 3.0) if noise.dither.subtractive else lost_share,
        )


class EdenCodec(SignCodec):
    """The sign codec at work on rotated vectors; its layout's tensors are the pieces."""

    def __init__(self, layout: Layout, rotation: Literal["own", "shared"], **parameters: Any) -> None:
        super().__init__(layout, **parameters)
        self._own = rotation == "own"
        self._turned: Vector | None = None

    def compress(self, x: Vector, state: State, draw: Draw, out: Buffer, plus: Vector | None = None) -> State:
        """Write the bits of R (x + plus), then the levels."""
        turned, key = self._scratch(), self._key(draw)
        for block in self._blocks:
            part = x[block.where]
            if plus is not None:
                part += plus[block.where]
            self._kernels.rotate(part, _stream(key, block), block.edges, turned[block.where])
        return super().compress(turned, state, draw, out)

    def remainder(self, x: Vector, payload: Buffer, draw: Draw, into: Vector) -> None:
        """Overwrite ``into`` with x - Q(x)."""
        sent = self._scratch()
        self.decode([Message(payload, 1.0, draw)], sent)
        np.subtract(x, sent, out=into)

    def decode(self, messages: Sequence[Message], into: Vector) -> None:
        """Overwrite ``into`` with sum_i weight_i Q_i."""
        if not self._own or not messages:
            super().decode(messages, into)
            if messages:
                self._rotate_back(messages[0].draw, into)
            return
        rows = Rows([message.payload[: self._bits_bytes] for message in messages])
        values, _ = self._values(messages)
        streams = Streams([self._key(message.draw) for message in messages], [0] * len(messages))

        def decode(block: Block, kernels: Kernels) -> None:
            part = into[block.where]
            part.fill(0.0)
            first = first_word(block.number)
            kernels.add_rotated_back(rows, block.packed, values, block.groups, streams, first, block.edges, part)

        self._threads.run(decode, self._blocks)

    def votes(self, messages: Sequence[Message]) -> Votes | None:
        """Return the votes, which there are only where all share a rotation."""
        return None if self._own else super().votes(messages)

    def decode_votes(self, votes: Votes, senders: Sequence[tuple[float, Draw]], into: Vector) -> None:
        """Overwrite ``into`` with what :meth:`decode` makes of the messages that were counted."""
        super().decode_votes(votes, senders, into)
        self._rotate_back(senders[0][1], into)

    def _rotate_back(self, draw: Draw, into: Vector) -> None:
        key = self._key(draw)

        def rotate_back(block: Block, kernels: Kernels) -> None:
            kernels.rotate_back(_stream(key, block), block.edges, into[block.where])

        self._threads.run(rotate_back, self._blocks)

    def _key(self, draw: Draw) -> tuple[int, int]:
        return seed_words(draw.seed, Stream.ROTATION, draw.step, *((draw.worker,) if self._own else ()))

    def _scratch(self) -> Vector:
        if self._turned is None:
            self._turned = aligned_vector(self.layout.size)
        return self._turned


def _stream(key: tuple[int, int], block: Block) -> Stream16:
    return Stream16(key, first_word(block.number), 0)

"""The engine of every one-bit compressor: one loop over blocks each way. What differs is the scale and the noise.

A message tells its energy, size * M^2 for a group of scale M, but not how much of it is signal: ``signal_share``,
||x||^2 / (size M^2) for a group of that size, and ``noise_share``, E||Q(x) - x||^2 / (size M^2), come from the recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.base import Draw, Message, State, Stateless
from gcdl.compressors.groups import Groups
from gcdl.compressors.kernels import kernels_for, packed_bytes, spread
from gcdl.compressors.noise import Adder, Noise
from gcdl.compressors.scales import Levels, Scale
from gcdl.types import Buffer, Layout, Vector

_MANY = 8  # equal messages from which on counting votes first is faster


def normal_share(size: int) -> float:
    """Return ||x||^2 / (size M^2) for normal x and M = mean|x|: pi / 2."""
    return math.pi / 2.0


def lost_share(share: float) -> float:
    """Return the noise share that goes with a signal share.

    M^2 - x_j^2 for an unbiased quantiser; for a deterministic one with M = mean|x| the squared error x_j^2 - M^2.
    """
    return abs(1.0 - share)


class SignCodec(Stateless):
    """Bits, then (rows, G) float32 levels where the recipe has a scale; without one every value is +-1.

    Parameters
    ----------
    layout : the model's.
    scale : how the levels are found; None for values of +-1.
    block : coordinates that share a scale; 0 for a whole tensor.
    noise : what x is compared with; None for zero.
    signal_share, noise_share : see the module.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        scale: Scale | None = None,
        block: int = 0,
        noise: Noise | None = None,
        signal_share: Callable[[int], float] = normal_share,
        noise_share: Callable[[float], float] = lost_share,
    ) -> None:
        self.layout = layout
        self.scale = scale
        self.noise = noise
        groups = Groups.of(layout, block) if scale else Groups(np.array([0, layout.size]))
        self._sizes = groups.sizes
        self._blocks = groups.blocks()
        self._levels_bytes = 4 * scale.rows * groups.count if scale else 0
        self._bits_bytes = packed_bytes(layout.size)
        self.payload_bytes = self._bits_bytes + self._levels_bytes
        self._ones = np.ones((1, groups.count), dtype=np.float32)
        self._kernels = kernels_for(layout.size)
        shares = {int(size): signal_share(int(size)) for size in np.unique(self._sizes) if size}
        self._signal = np.array([shares.get(size, 0.0) for size in self._sizes.tolist()]) * self._sizes
        self._noise = np.array([noise_share(shares[size]) if size else 0.0 for size in self._sizes.tolist()]) * self._sizes

    def compress(self, x: Vector, state: State, draw: Draw, out: Buffer, plus: Vector | None = None) -> State:
        """Write the bits, then the levels; see :class:`gcdl.compressors.base.Codec`."""
        levels = self._measure(x, plus, out[: self._bits_bytes])
        out[self._bits_bytes :] = levels.reshape(-1).view(np.uint8)[: self._levels_bytes]
        if self.noise is not None:
            source = self.noise.dither.source(draw)
            # Backwards: what was looked at last is still in the cache.
            for block in reversed(self._blocks):
                scales = levels[0, block.groups]
                self.noise.quantise(block, x[block.where], scales, source, out[block.packed], self._kernels)
        return state

    def _measure(self, x: Vector, plus: Vector | None, bits: Buffer) -> Levels:
        """Add ``plus`` to x, and return x's levels. Without noise, write the bits too: that saves a pass over x."""
        scale, kernels = self.scale, self._kernels
        found = np.zeros((scale.columns if scale else 0, self._sizes.size))
        for block in self._blocks:
            part = x[block.where]
            if plus is not None:
                part += plus[block.where]
            if scale is not None:
                seen = found[:, block.groups]
                scale.combine(seen, scale.collect(kernels, part, block.edges), out=seen)
            if self.noise is None:
                kernels.pack(part, bits[block.packed])
        if scale is None:
            return self._ones
        finished = scale.finish(found[0] if scale.columns == 1 else found, self._sizes)
        return finished.astype(np.float32).reshape(scale.rows, -1)

    def decode(self, messages: Sequence[Message], into: Vector) -> None:
        """Overwrite ``into`` with sum_i weight_i Q_i."""
        if not messages:
            into.fill(0.0)
            return
        rows = [message.payload[: self._bits_bytes] for message in messages]
        weights = np.array([message.weight for message in messages], dtype=np.float32)
        if self.scale is None and len(rows) > _MANY and (weights == weights[0]).all():
            self._decode_votes(rows, weights[0], into)
            return
        levels = weights[:, np.newaxis, np.newaxis] * np.stack([self._levels(message.payload) for message in messages])
        halves, centre = _halves(levels)
        adder = self._adder([message.draw for message in messages], halves)
        for block in self._blocks:
            part = into[block.where]
            self._kernels.decode([row[block.packed] for row in rows], halves[:, block.groups], block.edges, part)
            if centre is not None:
                part += spread(centre.sum(axis=0)[block.groups], block.edges)
            if adder is not None:
                adder(block, part, self._kernels)

    def _decode_votes(self, rows: Sequence[Buffer], weight: np.float32, into: Vector) -> None:
        """Decode m messages of one weight: weight (2 votes - m), as a sum of signs of ceil(log2(m+1)) bit planes."""
        for block in self._blocks:
            planes = self._kernels.count_votes([row[block.packed] for row in rows])
            weights = (weight * 2.0 ** np.arange(len(planes))).astype(np.float32)
            part = into[block.where]
            self._kernels.decode(planes, weights[:, np.newaxis], block.edges, part)
            part += weight * np.float32(2 ** len(planes) - 1 - len(rows))

    def remainder(self, x: Vector, payload: Buffer, draw: Draw, into: Vector) -> None:
        """Overwrite ``into`` with x - Q(x)."""
        halves, centre = _halves(-self._levels(payload)[np.newaxis])
        adder = self._adder([draw], halves)
        for block in reversed(self._blocks):
            part = into[block.where]
            self._kernels.fold(payload[block.packed], halves[0, block.groups], block.edges, x[block.where], part)
            if centre is not None:
                part += spread(centre[0, block.groups], block.edges)
            if adder is not None:
                adder(block, part, self._kernels)

    def energy(self, payload: Buffer) -> tuple[float, float]:
        """Return ||x||^2 and E||Q(x) - x||^2 as the levels tell, by the recipe's shares."""
        square = (self._levels(payload).astype(np.float64) ** 2).mean(axis=0)
        return float(square @ self._signal), float(square @ self._noise)

    def _levels(self, payload: Buffer) -> Levels:
        if self.scale is None:
            return self._ones
        return np.frombuffer(payload[self._bits_bytes :].tobytes(), dtype=np.float32).reshape(self.scale.rows, -1)

    def _adder(self, draws: Sequence[Draw], halves: NDArray[np.float32]) -> Adder | None:
        return self.noise.adder(draws, halves) if self.noise is not None and self.noise.dither.subtractive else None


def _halves(levels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Split (m, rows, G) levels into centre +- half, (m, G) each; no centre for values of +-M."""
    if levels.shape[1] == 1:
        return levels[:, 0], None
    # Halved first: the sum of two levels may be more than a float32 holds.
    upper, lower = np.float32(0.5) * levels[:, 0], np.float32(0.5) * levels[:, 1]
    return upper - lower, upper + lower

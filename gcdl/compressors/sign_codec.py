"""The engine of every one-bit compressor: one loop over blocks each way. What differs is the scale and the noise.

*Agreed scales.* With a ``margin`` the workers use one scale in a step, ``margin`` times the largest that any of them would
have used in the step before (:meth:`SignCodec.agree`). A message then carries the scale it would have used, and coordinates
beyond the one agreed on are clipped, and counted. In the first step each still uses its own.

*Votes.* Where the scales of all messages are equal and the weights small multiples of a unit, the sum is decoded as unit
times scale times an integer: by way of the votes (:mod:`gcdl.compressors.votes`) or of the messages the same, to the bit.

A message tells its energy, size * M^2 for a group of scale M, but not how much of it is signal: ``signal_share``,
||x||^2 / (size M^2) for a group of that size, and ``noise_share``, E||Q(x) - x||^2 / (size M^2), come from the recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.base import Draw, Message, State, Stateless
from gcdl.compressors.decoding_threads import DecodesOnThreads
from gcdl.compressors.kernels import Kernels, Rows, Values, kernels_for, packed_bytes
from gcdl.compressors.noise import Adder, Noise
from gcdl.compressors.scale_groups import Block, Groups
from gcdl.compressors.scales import LARGEST, Levels, Scale
from gcdl.compressors.votes import Votes, multiples
from gcdl.types import Buffer, IntVector, Layout, Vector

_MANY = 8  # messages from which on counting votes first is faster


def normal_share(size: int) -> float:
    """Return ||x||^2 / (size M^2) for normal x and M = mean|x|: pi / 2."""
    return math.pi / 2.0


def lost_share(share: float) -> float:
    """Return the noise share that goes with a signal share.

    M^2 - x_j^2 for an unbiased quantiser; for a deterministic one with M = mean|x| the squared error x_j^2 - M^2.
    """
    return abs(1.0 - share)


class SignCodec(DecodesOnThreads[Block, Kernels], Stateless):
    """Bits, then (rows, G) float32 levels where the recipe has a scale; without one every value is +-1.

    Parameters
    ----------
    layout : the model's.
    scale : how the levels are found; None for values of +-1.
    block : coordinates that share a scale; 0 for a whole tensor.
    noise : what x is compared with; None for zero.
    margin : of the scales that workers agree on; 0: each uses its own.
    signal_share, noise_share : see the module.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        scale: Scale | None = None,
        block: int = 0,
        noise: Noise | None = None,
        margin: float = 0.0,
        signal_share: Callable[[int], float] = normal_share,
        noise_share: Callable[[float], float] = lost_share,
    ) -> None:
        self.layout = layout
        self.scale = scale
        self.noise = noise
        self.margin = margin
        self.clipped = 0
        self._groups = Groups.of(layout, block) if scale else Groups(np.array([0, layout.size]))
        self._kernels = kernels_for(layout.size)
        super().__init__(partial(kernels_for, layout.size))
        shares = {int(size): signal_share(int(size)) for size in np.unique(self._groups.sizes) if size}
        signal = [shares.get(size, 0.0) for size in self._groups.sizes.tolist()]
        noises = [noise_share(shares[size]) if size else 0.0 for size in self._groups.sizes.tolist()]
        self._signal_share, self._noise_share = np.array(signal), np.array(noises)
        self._settle_sizes(self._groups.sizes, self._groups.blocks())

    def _settle_sizes(self, sizes: IntVector, blocks: list[Block]) -> None:
        """Take in the coordinates of each group, (G,), and the blocks; all other sizes follow."""
        self._sizes = sizes
        self._blocks = blocks
        self._levels_bytes = 4 * self.scale.rows * sizes.size if self.scale else 0
        self._bits_bytes = packed_bytes(self.layout.size)
        self.agreed_count = sizes.size if self.margin else 0
        self.payload_bytes = self._bits_bytes + self._levels_bytes
        self._planes = np.empty((0, self._bits_bytes), dtype=np.uint8)
        self._ones = np.ones((1, sizes.size), dtype=np.float32)

    def part(self, where: slice, layout: Layout) -> tuple[SignCodec, slice]:
        """Return a codec that decodes the coordinates ``where``, of this layout, and the groups that they meet.

        ``where`` begins at a block's first coordinate, and ends at a block's last. Blocks keep their numbers.
        """
        groups, edges = self._groups.window(where.start, where.stop)
        part = copy(self)
        part.layout = layout
        part._signal_share, part._noise_share = self._signal_share[groups], self._noise_share[groups]
        blocks = [block.seen_from(where.start, groups.start) for block in self._blocks if block.within(where)]
        part._settle_sizes(np.diff(edges), blocks)
        return part, groups

    @property
    def rows(self) -> int:
        """How many levels a group has."""
        return self.scale.rows if self.scale else 0

    @property
    def groups(self) -> int:
        """The number of groups, G."""
        return int(self._sizes.size)

    def with_kernels(self, kernels: Any) -> SignCodec:
        """Return this codec at work with other kernels, such as those of a GPU."""
        other = copy(self)
        other._kernels = kernels
        return other

    def compress(self, x: Vector, state: State, draw: Draw, out: Buffer, plus: Vector | None = None) -> State:
        """Write the bits, then the levels; see :class:`gcdl.compressors.base.Codec`."""
        levels = self._measure(x, plus, out[: self._bits_bytes])
        out[self._bits_bytes :] = levels.reshape(-1).view(np.uint8)[: self._levels_bytes]
        self.clipped = 0
        if self.noise is not None:
            used = levels[0] if draw.agreed is None else draw.agreed
            quantise = self.noise.quantiser(draw, used)
            # Backwards: what was looked at last is still in the cache.
            for block in reversed(self._blocks):
                part, scales = x[block.where], used[block.groups]
                if draw.agreed is not None and self._may_exceed(levels[0, block.groups], scales):
                    self.clipped += self._kernels.count_beyond(part, scales, block.edges)
                quantise(block, part, out[block.packed], self._kernels)
        return state

    def _may_exceed(self, own: Vector, used: Vector) -> bool:
        """Say whether coordinates of groups with these levels may lie beyond the scales used."""
        assert self.scale is not None
        return not self.scale.bounds or bool((own > used).any())

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
        """Overwrite ``into`` with sum_i weight_i Q_i; see :class:`gcdl.compressors.base.Codec`."""
        if not messages:
            into.fill(0.0)
            return
        rows = Rows([message.payload[: self._bits_bytes] for message in messages])
        senders = [(message.weight, message.draw) for message in messages]
        counted = self._counted(messages)
        if counted is not None:
            levels, unit, counts = counted
            if len(rows) > _MANY:
                self._decode_votes(self._count(rows, unit, counts), levels, senders, into)
            else:
                self._decode_integers(rows, counts, 0, unit, levels, senders, into)
            return
        values, centre = self._values(messages)
        adder = self._adder([message.draw for message in messages], values)

        def decode(block: Block, kernels: Kernels) -> None:
            part = into[block.where]
            kernels.decode(rows, block.packed, values, block.groups, block.edges, part)
            if centre is not None:
                kernels.add_values(centre[block.groups], block.edges, part)
            if adder is not None:
                adder(block, part, kernels)

        self._threads.run(decode, self._blocks)

    def _values(self, messages: Sequence[Message]) -> tuple[Values, Vector | None]:
        """Return +-values[i] of each message, and the sum of what lies half way between two levels, (G,), if that is not 0."""
        weights = np.array([message.weight for message in messages], dtype=np.float32)
        levels = [self._levels(message.payload, message.draw) for message in messages]
        if self.rows <= 1:
            return Values([row[0] for row in levels], weights), None
        # Halved first: the sum of two levels may be more than a float32 holds.
        halves = [np.float32(0.5) * (weight * both) for weight, both in zip(weights, levels, strict=True)]
        centre = halves[0][0] + halves[0][1]
        for upper, lower in halves[1:]:
            centre += upper + lower
        return Values([upper - lower for upper, lower in halves], np.ones_like(weights)), centre

    def agree(self, payloads: Sequence[Buffer]) -> Vector | None:
        """Return ``margin`` times the largest scale of each group, (G,)."""
        if not self.agreed_count:
            return None
        largest = np.max([self._levels(payload)[0] for payload in payloads], axis=0)
        agreed: Vector = np.minimum(np.float64(self.margin) * largest, LARGEST).astype(np.float32)
        return agreed

    def votes(self, messages: Sequence[Message]) -> Votes | None:
        """Return the votes, if the messages are some, and the scales are known without them."""
        known = self.scale is None or (self.agreed_count and messages and messages[0].draw.agreed is not None)
        counted = self._counted(messages) if known else None
        if counted is None:
            return None
        rows = Rows([message.payload[: self._bits_bytes] for message in messages])
        return self._count(rows, *counted[1:])

    def decode_votes(self, votes: Votes, senders: Sequence[tuple[float, Draw]], into: Vector) -> None:
        """Overwrite ``into`` with what :meth:`decode` makes of the messages that were counted."""
        agreed = senders[0][1].agreed
        levels = self._ones if agreed is None else agreed[np.newaxis]
        self._decode_votes(votes, levels, senders, into)

    def _counted(self, messages: Sequence[Message]) -> tuple[Levels, float, list[int]] | None:
        """Return the levels that all messages have in common, the unit of their weights, and what each counts; None: not so."""
        if self.scale is not None and self.scale.rows > 1:
            return None
        counted = multiples([message.weight for message in messages])
        if counted is None:
            return None
        levels = self._levels(messages[0].payload, messages[0].draw)
        if self.scale is not None and not all(
            np.array_equal(self._levels(other.payload, other.draw), levels) for other in messages[1:]
        ):
            return None
        return levels, *counted

    def _count(self, rows: Rows, unit: float, counts: Sequence[int]) -> Votes:
        """Count the votes; the planes are valid until the next call."""
        total = sum(counts)
        if len(self._planes) < total.bit_length():
            self._planes = np.empty((total.bit_length(), self._bits_bytes), dtype=np.uint8)
        planes = self._planes[: total.bit_length()]

        def count(block: Block, kernels: Kernels) -> None:
            kernels.count_votes(rows, counts, block.packed, planes[:, block.packed])

        self._threads.run(count, self._blocks)
        return Votes(planes, total, unit)

    def _decode_votes(self, votes: Votes, levels: Levels, senders: Sequence[tuple[float, Draw]], into: Vector) -> None:
        rows = Rows(list(votes.planes))
        self._decode_integers(rows, votes.weights, votes.offset, votes.unit, levels, senders, into)

    def _decode_integers(
        self,
        rows: Rows,
        counts: Sequence[int],
        offset: int,
        unit: float,
        levels: Levels,
        senders: Sequence[tuple[float, Draw]],
        into: Vector,
    ) -> None:
        """Overwrite ``into`` with unit times level times (sum_i counts_i (+-1)_i + offset), the noise of the senders added.

        Integers are exact in float32, in whatever order they are added: so one product is all that is rounded.
        """
        integers = Values([np.ones(1, dtype=np.float32)] * len(rows), np.array(counts, dtype=np.float32))
        units = np.float32(unit) * levels[0]
        adder = None
        if self._subtractive:
            weights = np.array([weight for weight, _ in senders], dtype=np.float32)
            adder = self._adder([draw for _, draw in senders], Values([levels[0]] * len(senders), weights))

        def decode(block: Block, kernels: Kernels) -> None:
            part = into[block.where]
            kernels.decode(rows, block.packed, integers, slice(0, 1), np.array([0, part.size]), part)
            kernels.scale(float(offset), units[block.groups], block.edges, part)
            if adder is not None:
                adder(block, part, kernels)

        self._threads.run(decode, self._blocks)

    def remainder(self, x: Vector, payload: Buffer, draw: Draw, into: Vector) -> None:
        """Overwrite ``into`` with x - Q(x)."""
        values, centre = self._values([Message(payload, -1.0, draw)])
        adder = self._adder([draw], values)
        for block in reversed(self._blocks):
            part = into[block.where]
            value = values.block(block.groups)[0]
            self._kernels.fold(payload[block.packed], value, block.edges, x[block.where], part)
            if centre is not None:
                self._kernels.add_values(centre[block.groups], block.edges, part)
            if adder is not None:
                adder(block, part, self._kernels)

    def energies(self, payload: Buffer, agreed: Vector | None = None) -> NDArray[np.float64]:
        """Return ||x||^2 and E||Q(x) - x||^2 as the levels tell, by the recipe's shares: a row for each block."""
        square = (self._levels(payload).astype(np.float64) ** 2).mean(axis=0)
        # What a larger scale adds is noise: size (M'^2 - M^2).
        wider = 0.0 if agreed is None else np.maximum(agreed.astype(np.float64) ** 2 - square, 0.0)
        signal, noise = square * self._signal_share, square * self._noise_share + wider
        found = np.zeros((len(self._blocks), 2))
        for row, block in zip(found, self._blocks, strict=True):
            sizes = np.diff(block.edges)
            row[:] = signal[block.groups] @ sizes, noise[block.groups] @ sizes
        return found

    def _levels(self, payload: Buffer, draw: Draw | None = None) -> Levels:
        """Return the levels of a message; those that it carries where there is no ``draw``, which may say others."""
        if self.scale is None:
            return self._ones
        if draw is not None and draw.agreed is not None:
            return draw.agreed[np.newaxis]
        return payload[self._bits_bytes :].view(np.float32).reshape(self.scale.rows, -1)

    @property
    def _subtractive(self) -> bool:
        return self.noise is not None and self.noise.dither.subtractive

    def _adder(self, draws: Sequence[Draw], values: Values) -> Adder | None:
        return self.noise.adder(draws, values) if self.noise is not None and self._subtractive else None

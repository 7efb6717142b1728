"""The kernels in numpy: packing, drawing and decoding. They define the bits that every other implementation must give.

A method of :class:`Kernels` works on one block: at most :data:`gcdl.compressors.kernels.blocks.BLOCK` coordinates, beginning
at a multiple of BLOCK. So several passes over a block find it in the cache, and no scratch is larger than a block.
The caller loops over the blocks. Bits are in ``numpy.packbits`` order; bit 1 means +1.

The order of every float32 operation is part of the definition: :mod:`gcdl.compressors.kernels.native` gives the same bits.

Where scales differ within a block, ``edges``, (q+1,), cuts it into q runs, edges[0] = 0, and ``values``, (q,), has a number
for each; see :class:`gcdl.compressors.scale_groups.Groups`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.kernels.blocks import BLOCK, packed_bytes
from gcdl.compressors.kernels.random import Shorts, Stream16, Streams, random_words
from gcdl.compressors.kernels.rotation import hadamard
from gcdl.compressors.kernels.rows import Rows, Values
from gcdl.compressors.kernels.sums import FEW, Wide, doubtful_squares, sum_runs
from gcdl.compressors.kernels.wraps import Wraps
from gcdl.types import Buffer, IntVector, Vector

_TABLES = 1 << 10


@cache
def signs_of_bytes() -> NDArray[np.float32]:
    """Return (256, 8): +-1 for each bit of each byte."""
    every = np.arange(256, dtype=np.uint8)[:, np.newaxis]
    return (2.0 * np.unpackbits(every, axis=1) - 1.0).astype(np.float32)


def spread(values: Vector, edges: IntVector) -> Vector | np.float32:
    """Return the value of each coordinate's run."""
    return values[0] if values.size == 1 else np.repeat(values, np.diff(edges))


# A 64-bit word is an 8 x 8 matrix of bits: (distance, mask) of the swaps that mirror it along its antidiagonal.
_SWAPS = (
    (np.array(9, np.uint64), np.array(0x0055005500550055, np.uint64)),
    (np.array(18, np.uint64), np.array(0x0000333300003333, np.uint64)),
    (np.array(36, np.uint64), np.array(0x000000000F0F0F0F, np.uint64)),
)


class Kernels:
    """The kernels for vectors of d coordinates, and the scratch that they need, allocated once. Not shared between threads."""

    def __init__(self, d: int) -> None:
        n = min(8 * packed_bytes(d), BLOCK)
        self._signs = np.empty(n, dtype=np.bool_)
        self._values = np.empty(n, dtype=np.float32)
        self._more = np.empty(n, dtype=np.float32)
        self._random = np.empty(n // 4 + 1, dtype=np.uint64)
        self._words = np.empty(n // 4 + 1, dtype=np.uint64)
        self._index = np.empty(n, dtype=np.intp)
        self._columns = np.zeros((n // 8, 8), dtype=np.uint8)
        self._tables: dict[bytes, Vector] = {}

    # --- encoding

    def pack(self, x: Vector, out: Buffer) -> None:
        """Write bit = (x >= 0): zero, and minus zero, count as +."""
        # A float64 zero would make this comparison five times slower.
        out[:] = np.packbits(np.greater_equal(x, np.float32(0.0), out=self._signs[: x.size]))

    def stochastic(self, x: Vector, units: Vector, edges: IntVector, stream: Stream16, delta: float, out: Buffer) -> None:
        """Write bit = (x unit - delta > r): with delta uniform on [0, 1), +1 with probability 1/2 + x unit / 2^16."""
        threshold = self.times(x, units, edges, self._values[: x.size])
        threshold -= np.float32(delta)
        out[:] = np.packbits(np.greater(threshold, self.shorts(x.size, stream), out=self._signs[: x.size]))

    def exceeds(self, x: Vector, units: Vector, edges: IntVector, table: Vector, stream: Stream16, out: Buffer) -> None:
        """Write bit = (x unit > table[r]); ``table``, (65536,), by r as uint16."""
        noise = self.lookup(table, stream, x.size)
        scaled = self.times(x, units, edges, self._values[: x.size])
        out[:] = np.packbits(np.greater(scaled, noise, out=self._signs[: x.size]))

    def times(self, x: Vector, values: Vector, edges: IntVector, out: Vector) -> Vector:
        """Write x times the value of its run to ``out``, and return it."""
        if values.size == 1:
            np.multiply(x, values[0], out=out)
        elif values.size > FEW:
            np.multiply(x, np.repeat(values, np.diff(edges)), out=out)
        else:
            for value, (start, stop) in zip(values, pairwise(edges.tolist()), strict=True):
                np.multiply(x[start:stop], value, out=out[start:stop])
        return out

    def shorts(self, n: int, stream: Stream16) -> Shorts:
        """Return n uniform int16, four from each word, in scratch."""
        count = (n + 3) // 4
        r = random_words(stream.first, stream.key, self._random[:count], self._words[:count]).view(np.uint16)[:n]
        if stream.shift:
            np.add(r, np.uint16(stream.shift), out=r)
        return r.view(np.int16)

    def lookup(self, table: Vector, stream: Stream16, n: int) -> Vector:
        """Return table[r] of n random numbers as uint16, in scratch."""
        index = self._index[:n]
        np.copyto(index, self.shorts(n, stream).view(np.uint16))
        return np.take(table, index, out=self._more[:n], mode="clip")

    # --- sums of one vector

    def sums_abs(self, x: Vector, edges: IntVector) -> Wide:
        """Return sum |x_j| of each run, (q,) float64."""
        return sum_runs(np.abs(x, out=self._values[: x.size]), edges)

    def sums_positive(self, x: Vector, edges: IntVector) -> Wide:
        """Return sum max(x_j, 0) of each run, (q,) float64."""
        positive = np.maximum(x, np.float32(0.0), out=self._values[: x.size])
        return sum_runs(np.abs(positive, out=positive), edges)  # no minus zero

    def sums_square(self, x: Vector, edges: IntVector) -> Wide:
        """Return sum x_j^2 of each run, (q,) float64: in float32, and again in float64 where that over- or underflows."""
        sums = self._float_squares(x, edges)
        doubtful = doubtful_squares(sums, edges)
        if doubtful.any():
            full = np.diff(edges) > 0
            wide = np.zeros(sums.size)
            wide[full] = np.add.reduceat(np.square(x, dtype=np.float64), edges[:-1][full])
            sums[doubtful] = wide[doubtful]
        return sums

    def _float_squares(self, x: Vector, edges: IntVector) -> Wide:
        with np.errstate(over="ignore", under="ignore"):
            return sum_runs(np.multiply(x, x, out=self._values[: x.size]), edges)

    def maxima(self, x: Vector, edges: IntVector) -> Vector:
        """Return max |x_j| of each run, (q,) float32, 0 for an empty one."""
        found = np.zeros(edges.size - 1, dtype=np.float32)
        full = np.flatnonzero(np.diff(edges))
        if full.size > FEW:
            starts = edges[full]
            found[full] = np.maximum(np.maximum.reduceat(x, starts), -np.minimum.reduceat(x, starts))
        else:
            for run in full.tolist():
                part = x[edges[run] : edges[run + 1]]
                found[run] = max(part.max(), -part.min())
        return np.abs(found, out=found)  # no minus zero

    def counts_positive(self, x: Vector, edges: IntVector) -> IntVector:
        """Return how many coordinates of each run are >= 0, (q,)."""
        signs = np.greater_equal(x, np.float32(0.0), out=self._signs[: x.size])
        if edges.size - 1 > FEW:
            return np.diff(np.concatenate([[0], np.cumsum(signs, dtype=np.int64)])[edges])
        return np.array([np.count_nonzero(signs[start:stop]) for start, stop in pairwise(edges)], dtype=np.int64)

    def count_beyond(self, x: Vector, values: Vector, edges: IntVector) -> int:
        """Return how many coordinates are larger in magnitude than the value of their run."""
        magnitudes = np.abs(x, out=self._values[: x.size])
        return int(np.count_nonzero(np.greater(magnitudes, spread(values, edges), out=self._signs[: x.size])))

    # --- decoding

    def fold(self, bits: Buffer, values: Vector, edges: IntVector, source: Vector, into: Vector) -> None:
        """Write source + value (+-1) to ``into``, which may be ``source``: one message into a sum, or out of its input."""
        signed = self._values[: 8 * bits.size]
        table = signs_of_bytes() * values[0] if values.size == 1 else signs_of_bytes()
        np.take(table, bits, axis=0, out=signed.reshape(-1, 8), mode="clip")
        signed = signed[: source.size]
        if values.size > 1:
            self.times(signed, values, edges, signed)
        np.add(source, signed, out=into)

    def decode(self, rows: Rows, packed: slice, values: Values, groups: slice, edges: IntVector, into: Vector) -> None:
        """Overwrite ``into`` with sum_i values[i] (+-1)_i, for the block of m rows that lies at ``packed`` and in ``groups``.

        Eight rows at a time are summed from +0 in their order, and the sums of eight added up in theirs. For few runs the
        sum of eight is looked up: the bits of eight rows at one coordinate, transposed into a byte, name one of 256 sums.
        """
        here, each = rows.block(packed), values.block(groups)
        into.fill(0.0)
        partial = self._more[: into.size]
        for first in range(0, len(here), 8):
            octet, weights = here[first : first + 8], each[first : first + 8]
            if edges.size - 1 <= FEW:
                index = self._index[: into.size]
                # take wants intp; converting here saves it an allocation.
                np.copyto(index, self._transposed(octet)[: into.size])
                for run, (start, stop) in enumerate(pairwise(edges.tolist())):
                    np.take(self._sums_of_eight(weights[:, run]), index[start:stop], out=partial[start:stop], mode="clip")
            else:
                partial.fill(0.0)
                for bits, weight in zip(octet, weights, strict=True):
                    self.fold(bits, weight, edges, partial, partial)
            into += partial

    def _transposed(self, rows: Sequence[Buffer]) -> Buffer:
        """Return a byte a coordinate, with the bits of up to eight rows, the first row's highest; the other bits are stale."""
        size = rows[0].size
        columns = self._columns[:size]
        for i, row in enumerate(rows):
            columns[:, i] = row
        word, t = columns.view(np.uint64)[:, 0], self._words[:size]
        for distance, mask in _SWAPS:
            np.right_shift(word, distance, out=t)
            np.bitwise_xor(t, word, out=t)
            np.bitwise_and(t, mask, out=t)
            np.bitwise_xor(word, t, out=word)
            np.left_shift(t, distance, out=t)
            np.bitwise_xor(word, t, out=word)
        return columns.reshape(-1)

    def _sums_of_eight(self, weights: Vector) -> Vector:
        """Return (256,): the signed sum of up to eight weights for each byte of their signs, the first weight's bit highest."""
        key = weights.tobytes()
        table = self._tables.get(key)
        if table is None:
            # All blocks of a tensor ask for the same one.
            if len(self._tables) >= _TABLES:
                self._tables.clear()
            table = self._tables[key] = np.zeros(256, dtype=np.float32)
            for weight, signs in zip(weights, signs_of_bytes().T, strict=False):
                table += weight * signs
        return table

    def add_values(self, values: Vector, edges: IntVector, into: Vector) -> None:
        """Add the value of its run to each coordinate of ``into``."""
        into += spread(values, edges)

    def scale(self, offset: float, values: Vector, edges: IntVector, into: Vector) -> None:
        """Overwrite ``into`` with (into + offset) times the value of its run."""
        if offset:
            into += np.float32(offset)
        self.times(into, values, edges, into)

    # --- subtractive dither

    def add_ramps(
        self,
        streams: Streams,
        first: int,
        units: NDArray[np.float32],
        offsets: NDArray[np.float32],
        edges: IntVector,
        into: Vector,
    ) -> None:
        """Add (r unit) + offset to ``into``, the dither of m messages one after another; ``units``, ``offsets``, (m, q)."""
        dither = self._values[: into.size]
        for stream, unit, offset in zip(streams.at(first), units, offsets, strict=True):
            np.copyto(dither, self.shorts(into.size, stream))
            self.times(dither, unit, edges, dither)
            dither += spread(offset, edges)
            into += dither

    def add_steps(
        self,
        stream: Stream16,
        wraps: Wraps,
        values: Values,
        groups: slice,
        delta: float,
        edges: IntVector,
        into: Vector,
    ) -> None:
        """Add sum_i values_i / 2^15 (wrap(r + shift_i) + delta) to ``into``: the dither of m messages that share r.

        The sum is r times a slope, plus a level for the number of messages that
        have wrapped; see :class:`gcdl.compressors.kernels.wraps.Wraps`. Both are computed in float64, and rounded.
        """
        slope, levels = wraps.steps(values.block(groups), delta)
        dither, level, index = self._values[: into.size], self._more[: into.size], self._index[: into.size]
        r = self.shorts(into.size, stream)
        np.copyto(dither, r)
        self.times(dither, slope, edges, dither)
        np.copyto(index, r.view(np.uint16))
        np.copyto(index, np.take(wraps.counts, index, mode="clip"))
        if levels.shape[0] > 1:
            index += np.repeat(np.arange(levels.shape[0]) * levels.shape[1], np.diff(edges))
        np.take(levels.reshape(-1), index, out=level, mode="clip")
        dither += level
        into += dither

    def add_noises(
        self, table: Vector, streams: Streams, first: int, units: NDArray[np.float32], edges: IntVector, into: Vector
    ) -> None:
        """Add table[r] times unit to ``into``, for m messages one after another; ``units``, (m, q)."""
        for stream, unit in zip(streams.at(first), units, strict=True):
            noise = self.lookup(table, stream, into.size)
            into += self.times(noise, unit, edges, self._values[: into.size])

    # --- rotation: see rotation.py; ``edges`` are the pieces

    def rotate(self, x: Vector, stream: Stream16, edges: IntVector, out: Vector) -> None:
        """Write R x to ``out``, the signs of D being those of r."""
        np.copyto(out, x)
        self._flip(stream, out)
        hadamard(out, edges, self._values)

    def rotate_back(self, stream: Stream16, edges: IntVector, into: Vector) -> None:
        """Overwrite ``into`` with R^T times it."""
        hadamard(into, edges, self._values)
        self._flip(stream, into)

    def add_rotated_back(
        self,
        rows: Rows,
        packed: slice,
        values: Values,
        groups: slice,
        streams: Streams,
        first: int,
        edges: IntVector,
        into: Vector,
    ) -> None:
        """Add R_i^T (values[i] (+-1)_i) to ``into``, for m messages one after another, each with a rotation of its own."""
        turned = self._more[: into.size]
        for bits, value, stream in zip(rows.block(packed), values.block(groups), streams.at(first), strict=True):
            signs = np.take(signs_of_bytes(), bits, axis=0, out=self._values[: 8 * bits.size].reshape(-1, 8), mode="clip")
            self.times(signs.reshape(-1)[: into.size], value, edges, turned)
            self.rotate_back(stream, edges, turned)
            into += turned

    def _flip(self, stream: Stream16, x: Vector) -> None:
        np.negative(x, out=x, where=np.less(self.shorts(x.size, stream), 0, out=self._signs[: x.size]))

    # --- votes

    def count_votes(self, rows: Rows, counts: Sequence[int], packed: slice, planes: NDArray[np.uint8]) -> None:
        """Overwrite ``planes``, (P, bytes), with the bit planes, the lowest first, of sum_i counts[i] bit_i.

        Carry-save addition: three rows of one weight become one of it and one of twice it.
        """
        waiting: list[list[Buffer]] = [[] for _ in range(len(planes) + 1)]
        for row, count in zip(rows.block(packed), counts, strict=True):
            for bit in range(count.bit_length()):
                if count >> bit & 1:
                    waiting[bit].append(row)
        for plane, here, above in zip(planes, waiting, waiting[1:], strict=False):
            while len(here) > 1:
                a, b = here.pop(), here.pop()
                half, carry = a ^ b, a & b
                if here:
                    c = here.pop()
                    carry |= half & c
                    half ^= c
                here.append(half)
                above.append(carry)
            plane[:] = here[0] if here else 0

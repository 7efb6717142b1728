"""The kernels of encoding for a gradient that lies on a GPU, by PyTorch: the bits of the numpy reference.

The arithmetic is that of :mod:`gcdl.compressors.kernels.reference`, in its order, on the tensor's device: the counter-based
generator in int64 (two's complement wraps as uint64 does), comparisons and packing, and sums row after row. Two things come
to the host: the packed bits, d/8 bytes, and the last :data:`LANES` partial sums of each block, which numpy adds up there.
Where more than FEW scales fall into one block, the block is measured on the host.

This is tested on PyTorch's CPU device against numpy.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gcdl.compressors.kernels.blocks import BLOCK
from gcdl.compressors.kernels.random import GAMMA, MIX_1, MIX_2, Stream16, Streams
from gcdl.compressors.kernels.reference import Kernels
from gcdl.compressors.kernels.rows import Values
from gcdl.compressors.kernels.sums import FEW, LANES, Wide, doubtful_squares, sums_of_lanes
from gcdl.compressors.kernels.wraps import Wraps
from gcdl.types import Buffer, IntVector, Vector

_HALF = 1 << 63


def signed(word: int) -> int:
    """Return the int64 whose bits are those of a uint64."""
    word &= 2 * _HALF - 1
    return word - 2 * _HALF if word >= _HALF else word


def shifted(z: Tensor, places: int) -> Tensor:
    """Shift int64 right as if it were uint64."""
    return (z >> places) & ((1 << (64 - places)) - 1)


class TorchKernels:
    """The methods of :class:`gcdl.compressors.kernels.reference.Kernels` that encoding calls, for float32 tensors of a device.

    Bits, scales and edges stay on the host.
    """

    def __init__(self, d: int, device: torch.device) -> None:
        self._device = device
        self._host = Kernels(d)
        self._counters = torch.arange(min(d, BLOCK) // 4 + 1, device=device) * signed(GAMMA)
        self._weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=device)
        self._signs = torch.tensor([-1.0, 1.0], device=device)
        self._tables: dict[int, Tensor] = {}

    # --- encoding, as Kernels

    def pack(self, x: Tensor, out: Buffer) -> None:
        """Write bit = (x >= 0)."""
        self._write(x >= 0.0, out)

    def stochastic(self, x: Tensor, units: Vector, edges: IntVector, stream: Stream16, delta: float, out: Buffer) -> None:
        """Write bit = (x unit - delta > r)."""
        threshold = self._times(x, units, edges) - torch.tensor(np.float32(delta), device=self._device)
        self._write(threshold > self._shorts(x.numel(), stream), out)

    def exceeds(self, x: Tensor, units: Vector, edges: IntVector, table: Vector, stream: Stream16, out: Buffer) -> None:
        """Write bit = (x unit > table[r])."""
        self._write(self._times(x, units, edges) > self._looked_up(table, stream, x.numel()), out)

    def _looked_up(self, table: Vector, stream: Stream16, n: int) -> Tensor:
        """Return table[r] of n random numbers as uint16; a table is kept on the device."""
        kept = self._tables.get(id(table))
        if kept is None:
            kept = self._tables[id(table)] = self._there(table)
        return kept[self._shorts(n, stream).long() & 0xFFFF]

    def _times(self, x: Tensor, values: Vector, edges: IntVector) -> Tensor:
        return x * self._spread(values, edges)

    def _spread(self, values: Vector, edges: IntVector) -> Tensor:
        there = self._there(values)
        return there if values.size == 1 else self._repeated(there, edges)

    def _there(self, values: Vector) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=np.float32)).to(self._device)

    def _repeated(self, values: Tensor, edges: IntVector) -> Tensor:
        return torch.repeat_interleave(values, torch.from_numpy(np.diff(edges)).to(self._device))

    def _shorts(self, n: int, stream: Stream16) -> Tensor:
        z = self._counters[: (n + 3) // 4] + signed(stream.first * GAMMA + stream.key[0])
        z = (z ^ shifted(z, 30)) * signed(MIX_1)
        z = z ^ signed(stream.key[1])
        z = (z ^ shifted(z, 27)) * signed(MIX_2)
        shorts = (z ^ shifted(z, 31)).view(torch.int16)[:n]
        return shorts + int(np.uint16(stream.shift).astype(np.int16)) if stream.shift else shorts

    def _write(self, bits: Tensor, out: Buffer) -> None:
        padded = torch.zeros(8 * out.size, dtype=torch.uint8, device=self._device)
        padded[: bits.numel()] = bits
        out[:] = (padded.view(-1, 8) * self._weights).sum(dim=1, dtype=torch.uint8).cpu().numpy()

    # --- what was sent, taken out of what it was made of, as Kernels

    def fold(self, bits: Buffer, values: Vector, edges: IntVector, source: Tensor, into: Tensor) -> None:
        """Write source + value (+-1) to ``into``, which may be ``source``."""
        packed = torch.from_numpy(np.array(bits)).to(self._device)
        ones = (packed[:, None] & self._weights).ne(0).view(-1)[: source.numel()]
        torch.add(source, self._times(self._signs[ones.long()], values, edges), out=into)

    def add_values(self, values: Vector, edges: IntVector, into: Tensor) -> None:
        """Add the value of its run to each coordinate of ``into``."""
        into += self._spread(values, edges)

    def add_ramps(
        self,
        streams: Streams,
        first: int,
        units: NDArray[np.float32],
        offsets: NDArray[np.float32],
        edges: IntVector,
        into: Tensor,
    ) -> None:
        """Add (r unit) + offset to ``into``, for each message."""
        for stream, unit, offset in zip(streams.at(first), units, offsets, strict=True):
            into += self._times(self._shorts(into.numel(), stream).float(), unit, edges) + self._spread(offset, edges)

    def add_steps(
        self,
        stream: Stream16,
        wraps: Wraps,
        values: Values,
        groups: slice,
        delta: float,
        edges: IntVector,
        into: Tensor,
    ) -> None:
        """Add sum_i values_i / 2^15 (wrap(r + shift_i) + delta) to ``into``."""
        slope, levels = wraps.steps(values.block(groups), delta)
        r = self._shorts(into.numel(), stream)
        wrapped = torch.zeros_like(r, dtype=torch.int64)
        for below in wraps.below.tolist():
            wrapped += r > below
        if levels.shape[0] > 1:
            wrapped += self._repeated(torch.arange(levels.shape[0], device=self._device) * levels.shape[1], edges)
        into += self._times(r.float(), slope, edges) + self._there(levels).view(-1)[wrapped]

    def add_noises(
        self, table: Vector, streams: Streams, first: int, units: NDArray[np.float32], edges: IntVector, into: Tensor
    ) -> None:
        """Add table[r] times unit to ``into``, for each message."""
        for stream, unit in zip(streams.at(first), units, strict=True):
            into += self._times(self._looked_up(table, stream, into.numel()), unit, edges)

    # --- sums of one vector, as Kernels

    def sums_abs(self, x: Tensor, edges: IntVector) -> Wide:
        """Return sum |x_j| of each run."""
        if edges.size - 1 > FEW:
            return self._host.sums_abs(x.cpu().numpy(), edges)
        return self._sums(x.abs(), edges)

    def sums_positive(self, x: Tensor, edges: IntVector) -> Wide:
        """Return sum max(x_j, 0) of each run."""
        if edges.size - 1 > FEW:
            return self._host.sums_positive(x.cpu().numpy(), edges)
        return self._sums(x.clamp(min=0.0), edges)

    def sums_square(self, x: Tensor, edges: IntVector) -> Wide:
        """Return sum x_j^2 of each run; where float32 may have over- or underflown, by the host's way in float64."""
        if edges.size - 1 <= FEW:
            sums = self._sums(x * x, edges)
            if not doubtful_squares(sums, edges).any():
                return sums
        return self._host.sums_square(x.cpu().numpy(), edges)

    def maxima(self, x: Tensor, edges: IntVector) -> Vector:
        """Return max |x_j| of each run, 0 for an empty one."""
        if edges.size - 1 > FEW:
            return self._host.maxima(x.cpu().numpy(), edges)
        found = [x[start:stop].abs().max() if stop > start else x.new_zeros(()) for start, stop in _runs(edges)]
        return torch.stack(found).cpu().numpy()

    def counts_positive(self, x: Tensor, edges: IntVector) -> IntVector:
        """Return how many coordinates of each run are >= 0."""
        signs = torch.cat([x.new_zeros(1, dtype=torch.int64), (x >= 0.0).cumsum(0)])
        return np.diff(signs[torch.from_numpy(edges).to(self._device)].cpu().numpy())

    def count_beyond(self, x: Tensor, values: Vector, edges: IntVector) -> int:
        """Return how many coordinates are larger in magnitude than the value of their run."""
        return int((x.abs() > self._spread(values, edges)).sum())

    def _sums(self, x: Tensor, edges: IntVector) -> Wide:
        return np.array([self._lane_sum(x[start:stop]) for start, stop in _runs(edges)])

    def _lane_sum(self, x: Tensor) -> float:
        rows = x.numel() // LANES
        tail = x[rows * LANES :].cpu().numpy()
        if not rows:
            return sums_of_lanes(tail, None)
        lanes = x[:LANES].clone()
        for row in range(1, rows):
            lanes += x[row * LANES : (row + 1) * LANES]
        return sums_of_lanes(tail, lanes.cpu().numpy())


def _runs(edges: IntVector) -> list[tuple[int, int]]:
    return list(pairwise(edges.tolist()))


# --- numbers instead of bits ----------------------------------------------------------------------------------------


def zeros(d: int, device: torch.device) -> Tensor:
    """Return (d,) float32 zeros on a device."""
    return torch.zeros(d, device=device)


def copy_to_host(x: Tensor, out: Buffer) -> None:
    """Write the numbers of x, as they are, to ``out``."""
    torch.from_numpy(out).view(x.dtype).copy_(x)


def copy_from_host(saved: Buffer, into: Tensor) -> None:
    """Overwrite ``into``, (d,) float32, with the float32 in ``saved``."""
    into.copy_(torch.from_numpy(np.array(saved).view(np.float32)))


def rounded(x: Tensor, dtype: str) -> Tensor:
    """Return x in another floating-point type; what is too large for a float16 becomes its largest number."""
    to: torch.dtype = getattr(torch, dtype)
    largest = torch.finfo(to).max
    return (x.clamp(-largest, largest) if to == torch.float16 else x).to(to)


def rounding_error(x: Tensor, dtype: str, into: Tensor) -> None:
    """Overwrite ``into`` with x - rounded x."""
    torch.sub(x, rounded(x, dtype).float(), out=into)

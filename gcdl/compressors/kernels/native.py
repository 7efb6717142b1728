"""The kernels in machine code: ``native.c`` by way of ctypes, bit for bit :mod:`gcdl.compressors.kernels.reference`.

The library is built when gcdl is installed, where there is a C compiler. ctypes lets go of the interpreter's lock during a
call, so that threads compute side by side.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.kernels.random import ALL, Shorts, Stream16, Streams
from gcdl.compressors.kernels.reference import Kernels
from gcdl.compressors.kernels.rows import Rows, Values
from gcdl.compressors.kernels.sums import FEW, Wide
from gcdl.compressors.kernels.wraps import Wraps
from gcdl.types import Buffer, IntVector, Vector

LEVELS = ("avx512", "avx2", "plain")
"""The builds of each kernel, for the levels of x86-64, the highest first. What is plain runs on every processor."""
_LIBRARY = "gcdl.compressors.kernels._native"
_ABS, _POSITIVE, _SQUARE = range(3)
_COMPARED = 48  # messages up to which comparing r with each one's threshold is faster than looking the count up

_P, _I, _U, _S, _F, _D = (
    ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64, ctypes.c_int16, ctypes.c_float, ctypes.c_double,
)  # fmt: skip
_TYPES: dict[str, tuple[Any, ...]] = {
    "pack": (_P, _I, _P),
    "stochastic": (_P, _I, _P, _P, _I, _P, _U, _S, _F, _P),
    "exceeds": (_P, _I, _P, _P, _I, _P, _P, _U, _S, _P),
    "random_shorts": (_P, _U, _S, _P, _I),
    "sums": (ctypes.c_int, _P, _P, _I, _I, _P),
    "maxima": (_P, _P, _I, _P),
    "counts_positive": (_P, _P, _I, _P),
    "count_beyond": (_P, _I, _P, _P, _I, _P),
    "fold": (_P, _P, _P, _I, _P, _P, _I),
    "decode": (_P, _I, _I, _P, _P, _I, _P, _I, _P, _I),
    "add_values": (_P, _P, _I, _P),
    "scale": (_F, _P, _P, _I, _P),
    "add_ramps": (_I, _P, _P, _U, _P, _I, _P, _I, _P, _I, _P, _I),
    "add_steps": (_P, _U, _S, _I, _P, _P, _P, _P, _P, _P, _I, _D, _P, _P, _P, _I, _P, _I),
    "add_noises": (_I, _P, _P, _U, _P, _P, _I, _P, _I, _P, _I),
    "rotate": (_P, _P, _U, _S, _P, _I, _P),
    "rotate_back": (_P, _U, _S, _P, _I, _P),
    "add_rotated_back": (_I, _P, _I, _P, _P, _I, _P, _P, _U, _P, _I, _P, _I),
    "count_votes": (_P, _I, _I, _P, _P, _I, _I, _I),
}


@cache
def _library() -> ctypes.CDLL | None:
    found = find_spec(_LIBRARY)
    if found is None or found.origin is None:
        return None
    try:
        library = ctypes.CDLL(found.origin)
        library.best_level.restype = ctypes.c_char_p
        library.source_crc.restype = ctypes.c_uint32
        built_of = library.source_crc()
    except (OSError, AttributeError):
        return None
    # In a checkout the source may be newer than the library: then its functions may take other arguments.
    source = Path(__file__).with_suffix(".c")
    return None if source.is_file() and crc32(source.read_bytes()) != built_of else library


def best_level() -> str | None:
    """Return which of :data:`LEVELS` this processor has; None where the library was not built."""
    library = _library()
    if library is None:
        return None
    level: str = library.best_level().decode()
    return level


@cache
def _functions(level: str) -> dict[str, Callable[..., None]]:
    library = _library()
    assert library is not None
    functions: dict[str, Callable[..., None]] = {}
    for name, types in _TYPES.items():
        function = library[f"{name}_{level}"]
        function.argtypes, function.restype = types, None
        functions[name] = function
    return functions


class NativeKernels(Kernels):
    """Every method is that of :class:`gcdl.compressors.kernels.reference.Kernels`. Not shared between threads.

    Parameters
    ----------
    level : one of :data:`LEVELS`, which this processor must have; the best one when left out.
    """

    def __init__(self, level: str | None = None) -> None:
        self._f = _functions(level or best_level() or LEVELS[-1])
        self._key = np.empty(2, dtype=np.uint64)
        self._levels = np.empty(0, dtype=np.float32)
        self._one = np.empty(1, dtype=np.int64)

    # --- encoding

    def pack(self, x: Vector, out: Buffer) -> None:
        """Write bit = (x >= 0)."""
        self._f["pack"](_at(x), x.size, _at(out))

    def stochastic(self, x: Vector, units: Vector, edges: IntVector, stream: Stream16, delta: float, out: Buffer) -> None:
        """Write bit = (x unit - delta > r)."""
        self._f["stochastic"](_at(x), x.size, _at(units), *_runs(edges), *self._opened(stream), delta, _at(out))

    def exceeds(self, x: Vector, units: Vector, edges: IntVector, table: Vector, stream: Stream16, out: Buffer) -> None:
        """Write bit = (x unit > table[r])."""
        self._f["exceeds"](_at(x), x.size, _at(units), *_runs(edges), _at(table), *self._opened(stream), _at(out))

    def shorts(self, n: int, stream: Stream16) -> Shorts:
        """Return n uniform int16."""
        r = np.empty(n, dtype=np.int16)
        self._f["random_shorts"](*self._opened(stream), _at(r), n)
        return r

    def _opened(self, stream: Stream16) -> tuple[int, int, int]:
        self._key[:] = stream.key
        return _at(self._key), stream.first & ALL, stream.shift

    # --- sums of one vector

    def sums_abs(self, x: Vector, edges: IntVector) -> Wide:
        """Return sum |x_j| of each run."""
        return self._sums(_ABS, x, edges)

    def sums_positive(self, x: Vector, edges: IntVector) -> Wide:
        """Return sum max(x_j, 0) of each run."""
        return self._sums(_POSITIVE, x, edges)

    def _float_squares(self, x: Vector, edges: IntVector) -> Wide:
        return self._sums(_SQUARE, x, edges)

    def _sums(self, kind: int, x: Vector, edges: IntVector) -> Wide:
        found = np.empty(edges.size - 1)
        self._f["sums"](kind, _at(x), *_runs(edges), FEW, _at(found))
        return found

    def maxima(self, x: Vector, edges: IntVector) -> Vector:
        """Return max |x_j| of each run, 0 for an empty one."""
        found = np.empty(edges.size - 1, dtype=np.float32)
        self._f["maxima"](_at(x), *_runs(edges), _at(found))
        return found

    def counts_positive(self, x: Vector, edges: IntVector) -> IntVector:
        """Return how many coordinates of each run are >= 0."""
        found = np.empty(edges.size - 1, dtype=np.int64)
        self._f["counts_positive"](_at(x), *_runs(edges), _at(found))
        return found

    def count_beyond(self, x: Vector, values: Vector, edges: IntVector) -> int:
        """Return how many coordinates are larger in magnitude than the value of their run."""
        self._f["count_beyond"](_at(x), x.size, _at(values), *_runs(edges), _at(self._one))
        return int(self._one[0])

    # --- decoding

    def fold(self, bits: Buffer, values: Vector, edges: IntVector, source: Vector, into: Vector) -> None:
        """Write source + value (+-1) to ``into``."""
        self._f["fold"](_at(bits), _at(values), *_runs(edges), _at(source), _at(into), into.size)

    def decode(self, rows: Rows, packed: slice, values: Values, groups: slice, edges: IntVector, into: Vector) -> None:
        """Overwrite ``into`` with sum_i values[i] (+-1)_i."""
        of_rows, of_values = (_at(rows.addresses), packed.start, len(rows)), (_at(values.addresses), _at(values.weights))
        self._f["decode"](*of_rows, *of_values, groups.start, *_runs(edges), _at(into), into.size)

    def add_values(self, values: Vector, edges: IntVector, into: Vector) -> None:
        """Add the value of its run to each coordinate of ``into``."""
        self._f["add_values"](_at(values), *_runs(edges), _at(into))

    def scale(self, offset: float, values: Vector, edges: IntVector, into: Vector) -> None:
        """Overwrite ``into`` with (into + offset) times the value of its run."""
        self._f["scale"](offset, _at(values), *_runs(edges), _at(into))

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
        """Add (r unit) + offset to ``into``, for m messages one after another."""
        of_streams = len(streams.keys), _at(streams.keys), _at(streams.shifts), first
        self._f["add_ramps"](*of_streams, *_table(units), *_table(offsets), *_runs(edges), _at(into), into.size)

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
        """Add sum_i values_i / 2^15 (wrap(r + shift_i) + delta) to ``into``."""
        m = wraps.shifts.size
        if self._levels.size < 9 * (m + 1) + 64:
            self._levels = np.zeros(9 * (m + 1) + 64, dtype=np.float32)
        scratch = _at(self._levels), _at(self._levels) + 4 * 8 * (m + 1)
        counts = _at(wraps.counts) if m > _COMPARED else None
        of_wraps = m, _at(wraps.below_twice), counts, _at(wraps.order), _at(wraps.shifts)
        of_values = _at(values.addresses), _at(values.weights), groups.start, delta, *scratch
        self._f["add_steps"](*self._opened(stream), *of_wraps, *of_values, *_runs(edges), _at(into), into.size)

    def add_noises(
        self, table: Vector, streams: Streams, first: int, units: NDArray[np.float32], edges: IntVector, into: Vector
    ) -> None:
        """Add table[r] times unit to ``into``, for m messages one after another."""
        of_streams = len(streams.keys), _at(streams.keys), _at(streams.shifts), first
        self._f["add_noises"](*of_streams, _at(table), *_table(units), *_runs(edges), _at(into), into.size)

    # --- rotation

    def rotate(self, x: Vector, stream: Stream16, edges: IntVector, out: Vector) -> None:
        """Write R x to ``out``."""
        self._f["rotate"](_at(x), *self._opened(stream), *_runs(edges), _at(out))

    def rotate_back(self, stream: Stream16, edges: IntVector, into: Vector) -> None:
        """Overwrite ``into`` with R^T times it."""
        self._f["rotate_back"](*self._opened(stream), *_runs(edges), _at(into))

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
        """Add R_i^T (values[i] (+-1)_i) to ``into``, for m messages one after another."""
        of_values = _at(values.addresses), _at(values.weights), groups.start
        of_streams = _at(streams.keys), _at(streams.shifts), first
        of_rows = len(rows), _at(rows.addresses), packed.start
        self._f["add_rotated_back"](*of_rows, *of_values, *of_streams, *_runs(edges), _at(into), into.size)

    # --- votes

    def count_votes(self, rows: Rows, counts: Sequence[int], packed: slice, planes: NDArray[np.uint8]) -> None:
        """Overwrite ``planes``, (P, bytes), with the bit planes of sum_i counts[i] bit_i."""
        each = np.array(counts, dtype=np.int32)
        self._f["count_votes"](
            _at(rows.addresses), packed.start, len(rows), _at(each), *_table(planes), len(planes), planes.shape[1]
        )  # fmt: skip


def _at(array: NDArray[Any]) -> int:
    address: int = array.ctypes.data
    return address


def _runs(edges: IntVector) -> tuple[int, int]:
    return _at(edges), edges.size - 1


def _table(values: NDArray[Any]) -> tuple[int, int]:
    """Return the address of a (m, q) array, and how many elements its rows are apart."""
    return _at(values), values.strides[0] // values.itemsize

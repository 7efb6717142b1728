"""Identity: the coded gradient itself, in float32, bfloat16 or float16: the baseline, and what exactness is tested with.

- ``float32``: bias 0, variance 0, 4 d bytes.
- ``bfloat16``: rounded to nearest, ties to even: 8 bits of precision (a relative error of 2^-9 at most), the range of float32.
- ``float16``: 11 bits of precision (2^-12), but only between 6e-5 and 65504: smaller values lose precision and vanish below
  3e-8, larger ones are sent as +-65504.

Both halves take 2 d bytes and are biased by their rounding alone. Zero stays zero in all three.
A NaN or an infinity never gets here: the worker raises first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.base import Draw, Message, State, Stateless, Voteless
from gcdl.compressors.bfloat16 import from_bfloat16, to_bfloat16
from gcdl.compressors.decoding_threads import DecodesOnThreads
from gcdl.types import Buffer, Layout, Vector

_BLOCK = 1 << 16
_LARGEST_HALF = np.float32(65504.0)


class Number(NamedTuple):
    """How numbers travel: ``stored`` has their size, ``encode`` writes float32 to it, ``decode`` reads it back."""

    stored: np.dtype[Any]
    encode: Callable[[Vector, NDArray[Any]], None]
    decode: Callable[[NDArray[Any], Vector], None]


def _to_float16(x: Vector, out: NDArray[np.float16]) -> None:
    np.copyto(out, np.clip(x, -_LARGEST_HALF, _LARGEST_HALF), casting="same_kind")


_NUMBERS = {
    "float32": Number(np.dtype(np.float32), lambda x, out: np.copyto(out, x), lambda stored, into: np.copyto(into, stored)),
    "bfloat16": Number(np.dtype(np.uint16), to_bfloat16, from_bfloat16),
    "float16": Number(np.dtype(np.float16), _to_float16, lambda stored, into: np.copyto(into, stored)),
}


@dataclass(frozen=True)
class Identity:
    """Every number, uncompressed or halved.

    Parameters
    ----------
    dtype : how numbers travel.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def codec(self, layout: Layout) -> IdentityCodec:
        """Return a codec of 4 d or 2 d bytes a message."""
        return IdentityCodec(layout, self.dtype)


class IdentityCodec(DecodesOnThreads[slice, Vector], Stateless, Voteless):
    """Copies, block by block."""

    def __init__(self, layout: Layout, dtype: Literal["float32", "bfloat16", "float16"]) -> None:
        self.dtype = dtype
        self._number = number = _NUMBERS[dtype]
        self.payload_bytes = number.stored.itemsize * layout.size
        self._blocks = [slice(start, min(start + _BLOCK, layout.size)) for start in range(0, layout.size, _BLOCK)]
        self._value = np.empty(min(layout.size, _BLOCK), dtype=np.float32)
        super().__init__(lambda: np.empty_like(self._value))

    def compress(self, x: Vector, state: State, draw: Draw, out: Buffer, plus: Vector | None = None) -> State:
        """Write x + plus to ``out``."""
        if plus is not None:
            x += plus
        stored = out.view(self._number.stored)
        for block in self._blocks:
            self._number.encode(x[block], stored[block])
        return state

    def remainder(self, x: Vector, payload: Buffer, draw: Draw, into: Vector) -> None:
        """Overwrite ``into`` with what rounding took off."""
        for block, value in self._values(payload):
            np.subtract(x[block], value, out=into[block])

    def decode(self, messages: Sequence[Message], into: Vector) -> None:
        """Overwrite ``into`` with the weighted sum of the messages; see :class:`gcdl.compressors.base.Codec`."""
        rows = [(message.payload.view(self._number.stored), np.float32(message.weight)) for message in messages]

        def decode(block: slice, scratch: Vector) -> None:
            value, part = scratch[: block.stop - block.start], into[block]
            part.fill(0.0)
            for stored, weight in rows:
                self._number.decode(stored[block], value)
                value *= weight
                part += value

        self._threads.run(decode, self._blocks)

    def energies(self, payload: Buffer, agreed: Vector | None = None) -> NDArray[np.float64]:
        """Return ||x||^2 of each block, and 0: what rounding loses is nothing beside a bit's noise."""
        squares = [float(np.square(value, dtype=np.float64).sum()) for _, value in self._values(payload)]
        return np.column_stack([squares, np.zeros(len(squares))])

    def _values(self, payload: Buffer) -> Iterator[tuple[slice, Vector]]:
        """Yield each block and its values, which lie in scratch."""
        stored = payload.view(self._number.stored)
        for block in self._blocks:
            value = self._value[: block.stop - block.start]
            self._number.decode(stored[block], value)
            yield block, value

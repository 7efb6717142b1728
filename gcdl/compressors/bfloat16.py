"""bfloat16: the upper half of a float32, rounded to nearest, ties to even. numpy has no such type: it travels as uint16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gcdl.types import Vector

_BLOCK = 1 << 16


def to_bfloat16(x: Vector, out: NDArray[np.uint16]) -> None:
    """Round x, (d,), to ``out``, (d,), block by block. A NaN stays one."""
    for start in range(0, x.size, _BLOCK):
        bits = x[start : start + _BLOCK].view(np.uint32)
        rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
        odd = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        np.copyto(rounded, (bits >> np.uint32(16)) | np.uint32(0x40), where=odd)
        np.copyto(out[start : start + _BLOCK], rounded, casting="unsafe")


def from_bfloat16(stored: NDArray[np.uint16], into: Vector) -> None:
    """Write the float32 that each of ``stored``, (d,), is to ``into``, (d,)."""
    for start in range(0, into.size, _BLOCK):
        part = into[start : start + _BLOCK]
        np.left_shift(stored[start : start + _BLOCK], np.uint32(16), out=part.view(np.uint32), dtype=np.uint32)

"""The randomised Hadamard transform R = H D / sqrt(n), in numpy: a rotation in n log n additions.

D flips signs at random, H is the Hadamard matrix in Sylvester's order, n a power of two. A vector is rotated in pieces of
:data:`PIECE` coordinates; what is left over in pieces of the powers of two that make it up. Then nothing is padded.
The order of the additions is part of the definition: one stage after another, of coordinates 1, 2, 4, ... apart.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from gcdl.types import IntVector, Vector

PIECE = 1 << 12
"""Coordinates that are rotated together. It divides BLOCK."""


def pieces(d: int) -> list[int]:
    """Return the sizes of the pieces of d coordinates, in order."""
    rest = d % PIECE
    return [PIECE] * (d // PIECE) + [1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]


def hadamard(y: Vector, edges: IntVector, scratch: Vector) -> None:
    """Overwrite y with H (y / sqrt(n)) for each piece; ``scratch`` has at least half of y's size."""
    whole = int(np.count_nonzero(np.diff(edges) == PIECE))
    parts = [(0, whole * PIECE, PIECE)] if whole else []
    parts += [(start, stop, stop - start) for start, stop in pairwise(edges[whole:].tolist())]
    for start, stop, n in parts:
        y[start:stop] *= np.float32(1.0 / np.sqrt(n))  # first, so that no sum overflows that need not
        distance = 1
        while distance < n:
            pairs = y[start:stop].reshape(-1, 2, distance)
            above, below = pairs[:, 0], pairs[:, 1]
            sums = scratch[: above.size].reshape(above.shape)
            with np.errstate(over="ignore", invalid="ignore"):
                np.add(above, below, out=sums)
                np.subtract(above, below, out=below)
            above[:] = sums
            distance *= 2

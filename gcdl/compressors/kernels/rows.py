"""What the kernels read of m messages: rows of packed bits, and rows of values, where the messages hold them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gcdl.types import Buffer, Vector


class Rows:
    """m rows of bits over the same coordinates.

    Parameters
    ----------
    rows : each (bytes,) uint8, contiguous. They may be longer than what is read of them.
    """

    def __init__(self, rows: Sequence[Buffer]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def block(self, packed: slice) -> list[Buffer]:
        """Return the bytes of one block of every row."""
        return [row[packed] for row in self.rows]

    @cached_property
    def addresses(self) -> NDArray[np.uintp]:
        """(m,): where each row begins in memory."""
        return np.array([row.ctypes.data for row in self.rows], dtype=np.uintp)


class Values:
    """(m, G): a value for each message and group, its level times the message's weight.

    They are multiplied where they are read: a copy of all levels would be d / 8 numbers for m = 32 and groups of 256.

    Parameters
    ----------
    levels : each (G,) float32, contiguous, at any address.
    weights : (m,) float32.
    """

    def __init__(self, levels: Sequence[Vector], weights: Vector) -> None:
        self.levels = levels
        self.weights = weights

    def block(self, groups: slice) -> NDArray[np.float32]:
        """Return the values of a block's groups, (m, q)."""
        if not len(self.levels):
            return np.empty((0, groups.stop - groups.start), dtype=np.float32)
        here: NDArray[np.float32] = np.stack([row[groups] for row in self.levels])
        here *= self.weights[:, np.newaxis]
        return here

    @cached_property
    def addresses(self) -> NDArray[np.uintp]:
        """(m,): where each message's levels begin in memory."""
        return np.array([row.ctypes.data for row in self.levels], dtype=np.uintp)

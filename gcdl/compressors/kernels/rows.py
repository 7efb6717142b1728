"""Rows of packed bits, one a message, as the kernels read them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gcdl.types import Buffer


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

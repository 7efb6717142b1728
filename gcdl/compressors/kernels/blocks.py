"""Blocks: a vector is worked on in blocks of :data:`BLOCK` coordinates, so that a block stays in the cache."""

from __future__ import annotations

from collections.abc import Iterator

BLOCK = 1 << 17
"""Coordinates a block. Part of every seed's meaning: never change it."""


def packed_bytes(d: int) -> int:
    """Return ceil(d / 8): the bytes that d bits take."""
    return (d + 7) // 8


def blocks(d: int) -> Iterator[tuple[slice, slice]]:
    """Yield (coordinates, bytes of bits) of each block of d coordinates."""
    for start in range(0, d, BLOCK):
        stop = min(start + BLOCK, d)
        yield slice(start, stop), slice(start // 8, packed_bytes(stop))

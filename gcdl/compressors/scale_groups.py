"""Which coordinates share a scale: each tensor's, or blocks of a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gcdl.compressors.kernels import blocks
from gcdl.types import IntVector, Layout


@dataclass(frozen=True, eq=False)
class Groups:
    """``edges``, (G+1,): group g is coordinates edges[g] .. edges[g+1] of the flat vector."""

    edges: IntVector

    @classmethod
    def of(cls, layout: Layout, block: int = 0) -> Groups:
        """Return one group a tensor, or one for each ``block`` consecutive coordinates of it; its last one may be shorter."""
        edges = [0]
        for where in layout.slices:
            if block:
                edges.extend(range(where.start + block, where.stop, block))
            edges.append(where.stop)
        return cls(np.array(edges, dtype=np.int64))

    @property
    def count(self) -> int:
        """The number of groups, G."""
        return self.edges.size - 1

    @cached_property
    def sizes(self) -> IntVector:
        """(G,) coordinates of each group."""
        return np.diff(self.edges)

    def window(self, start: int, stop: int) -> tuple[slice, IntVector]:
        """Return the groups that meet coordinates start .. stop, and their edges, cut to that range and relative to start."""
        first = max(int(np.searchsorted(self.edges, start, side="right")) - 1, 0)
        last = max(int(np.searchsorted(self.edges, stop, side="left")), first)
        return slice(first, last), np.clip(self.edges[first : last + 1], start, stop) - start

    def blocks(self) -> list[Block]:
        """Return the blocks of all coordinates."""
        return [
            Block(number, where, packed, *self.window(where.start, where.stop))
            for number, (where, packed) in enumerate(blocks(int(self.edges[-1])))
        ]


class Block(NamedTuple):
    """A block of coordinates: its number, its place in the vector and in the bits, the groups it meets, their edges in it."""

    number: int
    where: slice
    packed: slice
    groups: slice
    edges: IntVector

    def within(self, where: slice) -> bool:
        """Say whether all of it lies in these coordinates."""
        return bool(where.start <= self.where.start and self.where.stop <= where.stop)

    def seen_from(self, start: int, group: int) -> Block:
        """Return the block as it lies in a vector that begins at coordinate ``start``, a multiple of 8, and group ``group``."""
        return self._replace(
            where=slice(self.where.start - start, self.where.stop - start),
            packed=slice(self.packed.start - start // 8, self.packed.stop - start // 8),
            groups=slice(self.groups.start - group, self.groups.stop - group),
        )

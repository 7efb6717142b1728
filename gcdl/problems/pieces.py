"""A step's minibatches, cut into what one pass computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gcdl.problems.minibatches import Minibatches
from gcdl.problems.samples import Rows, Shard


class WeightedShard(NamedTuple):
    """A shard that a worker holds.

    ``weight`` is of its mean loss in the coded loss: B_ij (N_j / N).
    """

    number: int
    weight: float
    samples: Shard


class Piece(NamedTuple):
    """A shard's minibatch, or a part of it.

    Attributes
    ----------
    key : (shard, step, number of the part): what seeds it.
    shard, rows : the samples, and which of them.
    size : how many.
    share : of its mean loss in the coded loss: B_ij (N_j / N) times its part of the minibatch.
    cost : in shards.
    """

    key: tuple[int, ...]
    shard: Shard
    rows: Rows
    size: int
    share: float
    cost: float


def pieces_of(shards: Sequence[WeightedShard], minibatches: Minibatches, step: int, chunk: int) -> Iterator[Piece]:
    """Yield a step's minibatches, cut where they are larger than ``chunk`` samples."""
    for j, weight, shard in shards:
        drawn = minibatches.rows(j, shard.size, step)
        rows = np.arange(shard.size) if isinstance(drawn, slice) else drawn
        for number, start in enumerate(range(0, len(rows), chunk)):
            part = rows[start : start + chunk]
            cost = len(part) / len(rows)
            yield Piece((j, step, number), shard, part, len(part), weight * cost, cost)


def passes_of(pieces: Sequence[Piece], chunk: int) -> Iterator[list[Piece]]:
    """Group pieces into passes of at most ``chunk`` samples. The groups never depend on time."""
    gathered: list[Piece] = []
    for piece in pieces:
        if gathered and sum(one.size for one in gathered) + piece.size > chunk:
            yield gathered
            gathered = []
        gathered.append(piece)
    yield gathered

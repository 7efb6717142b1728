"""Shapes, array aliases, and the one source of random numbers.

Shape legend, used in every docstring (the papers' letters):

====  =====================================================================
n     workers; they are numbered from 0, after the masters in rank
k     shards of the training set
d     parameters of the model
m     replies decoded in a step
T     tensors of the model
s     stragglers tolerated in a step
B     (n, k) encoding matrix; row i belongs to worker i
a     (n,) decoding vector, zero for workers that have not arrived
====  =====================================================================
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""(d,) float32: parameters, a gradient."""
Weights = NDArray[np.float64]
"""(n,) or (k,) float64: a decoding vector, a row of B, seconds by worker."""
Matrix = NDArray[np.float64]
"""(n, k) float64."""
Sums = NDArray[np.float64]
"""(columns,) or (pieces, columns) float64: sums over samples, of an evaluation's figures."""
Mask = NDArray[np.bool_]
"""(n,) bool: which workers."""
IntVector = NDArray[np.int64]
Buffer = NDArray[np.uint8]
"""Bytes that travel."""

# Numbers a user may set, with their bounds beside them: the config reads these.
Count = Annotated[int, Ge(1)]
Steps = Annotated[int, Ge(1), Lt(1 << 31)]
"""A step's number fits 31 bits of a message's header."""
Natural = Annotated[int, Ge(0)]
Seconds = Annotated[float, Ge(0.0)]
"""Seconds, zero or more; inf is allowed and means never."""
Positive = Annotated[float, Gt(0.0), Lt(math.inf)]
Rate = Annotated[float, Gt(0.0)]
"""Above zero; inf is allowed and means that it takes no time."""
Nonnegative = Annotated[float, Ge(0.0), Lt(math.inf)]
Probability = Annotated[float, Ge(0.0), Le(1.0)]
Fraction = Annotated[float, Ge(0.0), Lt(1.0)]


class Stream(IntEnum):
    """What a random number is for. Never renumber: a stream's number is part of every run's seed."""

    CODE = 1
    SHARDS = 2
    DATA = 3
    MODEL = 4
    MINIBATCH = 5
    DELAYS = 6
    COMPRESSOR = 7
    DITHER = 8
    COMPUTE = 9
    ROTATION = 10
    LAYERS = 16
    EPOCH = 17


def rng_for(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """Return a generator that depends on its arguments alone, so that any rank can recreate it.

    ``key`` holds non-negative integers, e.g. (shard, step). Costs about 15 microseconds.
    """
    return np.random.Generator(np.random.SFC64(_sequence(seed, stream, key)))


def seed_words(seed: int, stream: Stream, *key: int) -> tuple[int, int]:
    """Return 128 bits that depend on the arguments alone: the key of a counter-based generator."""
    first, second = _sequence(seed, stream, key).generate_state(2, np.uint64).tolist()
    return first, second


def _sequence(seed: int, stream: Stream, key: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(int(stream), *key))


def padded(nbytes: int, alignment: int = 64) -> int:
    """Return ``nbytes``, rounded up to a multiple of ``alignment``."""
    return -(-nbytes // alignment) * alignment


def aligned_buffer(nbytes: int, alignment: int = 64) -> Buffer:
    """Return an uninitialised (nbytes,) uint8 array whose first byte lies on a multiple of ``alignment``.

    Math libraries may round differently on differently aligned data; with this, every rank computes alike.
    """
    raw = np.empty(nbytes + alignment, dtype=np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + nbytes]


def aligned_vector(d: int) -> Vector:
    """Return a zeroed (d,) float32 array on a 64-byte boundary."""
    vector = aligned_buffer(4 * d).view(np.float32)
    vector.fill(0.0)
    return vector


@dataclass(frozen=True)
class Layout:
    """A model's tensors as consecutive slices of one flat (d,) vector."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """The slice of each tensor, in order."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes], dtype=np.int64).tolist()
        return tuple(slice(start, end) for start, end in itertools.pairwise([0, *ends]))

    @property
    def size(self) -> int:
        """The number of parameters, d."""
        return self.slices[-1].stop if self.slices else 0

    def tensor_at(self, coordinate: int) -> str:
        """Return the name of the tensor that holds a coordinate of the flat vector."""
        for name, where in zip(self.names, self.slices, strict=True):
            if coordinate < where.stop:
                return name
        raise IndexError(coordinate)

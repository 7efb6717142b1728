"""Named arrays as one stretch of bytes: what a snapshot holds beside the parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from gcdl.optimizers import OptimizerRecipe
from gcdl.types import Buffer, aligned_vector, padded

_COUNT_BYTES = 8
_SLACK_BYTES = 1024  # how much longer the description may be for a larger d


def archive_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    """Return how many bytes :func:`write_archive` writes."""
    return padded(_COUNT_BYTES + len(_describe(arrays))) + sum(padded(array.nbytes) for array in arrays.values())


def write_archive(arrays: Mapping[str, np.ndarray], into: Buffer) -> None:
    """Write arrays: the description's length, the description, the arrays, each on a 64-byte boundary."""
    text = _describe(arrays)
    into[:_COUNT_BYTES].view(np.int64)[0] = len(text)
    into[_COUNT_BYTES : _COUNT_BYTES + len(text)] = np.frombuffer(text, dtype=np.uint8)
    start = padded(_COUNT_BYTES + len(text))
    for array in arrays.values():
        into[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        start += padded(array.nbytes)


def read_archive(stored: Buffer) -> dict[str, np.ndarray]:
    """Return copies of the arrays that were written."""
    length = int(stored[:_COUNT_BYTES].view(np.int64)[0])
    described = json.loads(stored[_COUNT_BYTES : _COUNT_BYTES + length].tobytes())
    start = padded(_COUNT_BYTES + length)
    arrays = {}
    for name, dtype, shape in described:
        count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        arrays[name] = stored[start : start + count].copy().view(np.dtype(dtype)).reshape(shape)
        start += padded(count)
    return arrays


def most_state_bytes(recipe: OptimizerRecipe, d: int) -> int:
    """Return an upper bound on the bytes of an optimizer's state for d parameters, from those of two tiny models."""
    sizes = []
    for small in (2, 3):
        optimizer = recipe.build(aligned_vector(small))
        optimizer.step(aligned_vector(small))
        sizes.append(sum(array.nbytes for array in optimizer.state().values()))
        arrays = optimizer.state()
    return archive_bytes(arrays) + _SLACK_BYTES + (sizes[1] - sizes[0]) * d


def _describe(arrays: Mapping[str, np.ndarray]) -> bytes:
    return json.dumps([(name, array.dtype.str, array.shape) for name, array in arrays.items()]).encode()

"""What a run takes along when it goes on with another code: the compressors' states of the workers whose rows stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gcdl.protocol.model_slices import AGREED
from gcdl.types import Buffer, IntVector, Matrix


@dataclass(frozen=True, eq=False)
class CarriedOver:
    """What the workers of the new code begin with.

    Attributes
    ----------
    sources : by worker, whose row of the old code it has. Others begin afresh.
    accepted : (n,): the last step decoded with the reply of each worker's source; -1: it begins afresh.
    """

    sources: Mapping[int, int]
    accepted: IntVector

    @property
    def fresh(self) -> list[int]:
        """The workers that begin afresh."""
        return [worker for worker in range(len(self.accepted)) if worker not in self.sources]

    def states(self, known: Mapping[int, Buffer]) -> dict[int, Buffer]:
        """Return the states of the new code's workers, from those that are known of the old one's."""
        return {worker: known[source] for worker, source in self.sources.items() if source in known}


def carry_over(old: Matrix, new: Matrix, accepted: IntVector, *, same_compressor: bool) -> CarriedOver:
    """Find out who goes on with whose state, from code ``old``, (m, k), to ``new``, (n, k).

    A worker takes the state along that belongs to its row: the same shards with the same entries. ``accepted``, (m,): of the
    old code's workers. ``same_compressor``: their states are of the compressor that goes on.
    """
    by_row: dict[bytes, list[int]] = {}
    for worker, row in enumerate(old):
        by_row.setdefault(row.tobytes(), []).append(worker)
    left = {row: list(workers) for row, workers in by_row.items()}
    sources: dict[int, int] = {}
    rows = [row.tobytes() for row in new] if same_compressor else []
    for worker, row in enumerate(rows):
        if worker in left.get(row, []):
            left[row].remove(worker)
            sources[worker] = worker
    for worker, row in enumerate(rows):
        if worker not in sources and left.get(row):
            sources[worker] = left[row].pop(0)
    carried = np.full(len(new), -1, dtype=np.int64)
    for worker, source in sources.items():
        carried[worker] = accepted[source]
    return CarriedOver(sources, carried)


def downlink_arrays(arrays: Mapping[str, np.ndarray], changed: Sequence[str]) -> dict[str, np.ndarray]:
    """Return what of a downlink's arrays is of use still, when these tables of the config have changed."""
    if "downlink" in changed:
        return {}
    return {name: array for name, array in arrays.items() if "compressor" not in changed or name != AGREED}

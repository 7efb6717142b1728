"""A worker's share of an evaluation (``run.evaluate = "workers"``): every n-th piece of the test set.

The worker has the model that is to be evaluated when it is given the next step's task. It evaluates its pieces first, sends
their sums, and then computes the gradient. The pieces are those of an evaluation by the master. So the master can add up the
sums of all pieces in their order, to the same figures, whoever they come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gcdl.problems import CutsTestSet
from gcdl.types import Sums, Vector


def pieces_of(worker: int, n: int, pieces: int) -> range:
    """Return the pieces of one of n workers.

    >>> [list(pieces_of(worker, 3, 7)) for worker in range(3)]
    [[0, 3, 6], [1, 4], [2, 5]]
    """
    return range(worker, pieces, n)


class EvaluationShare:
    """What one worker evaluates, and when.

    Parameters
    ----------
    evaluator : has the test set.
    worker, n : whose share, of how many.
    every : steps between evaluations.
    """

    def __init__(self, evaluator: CutsTestSet, worker: int, n: int, every: int) -> None:
        self._evaluator = evaluator
        self._pieces: Sequence[int] = pieces_of(worker, n, evaluator.pieces())
        self._every = every

    def due(self, step: int) -> bool:
        """Say whether the model that this step's task brings is to be evaluated, and there is something to evaluate."""
        return step > 0 and step % self._every == 0 and len(self._pieces) > 0

    def sums(self, parameters: Vector) -> Iterator[Sums]:
        """Yield the sums of each piece, (columns,), at ``parameters``, (d,)."""
        for piece in self._pieces:
            yield np.asarray(self._evaluator.sums(parameters, piece), dtype=np.float64)

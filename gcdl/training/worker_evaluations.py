"""The master's part of an evaluation by the workers (``run.evaluate = "workers"``): it adds up what they send.

Pieces that nobody has sent by the end of the step are evaluated by the master: those of workers that are lost, or late. So an
evaluation waits for nobody, and its figures are those of an evaluation by the master alone, to the bit.
"""

from __future__ import annotations

import numpy as np

from gcdl.config import Experiment
from gcdl.errors import ConfigError, MessageError
from gcdl.problems import CutsTestSet, Evaluation, Evaluator
from gcdl.protocol.evaluation_share import EvaluationShare, pieces_of
from gcdl.types import Buffer, Sums, Vector


class WorkerEvaluations:
    """What the workers have found.

    Parameters
    ----------
    evaluator : of the same test set.
    n : the number of workers.
    """

    def __init__(self, evaluator: CutsTestSet, n: int) -> None:
        self._evaluator = evaluator
        self._n = n
        self._pieces, self._columns = evaluator.pieces(), evaluator.columns()
        self._found: dict[int, dict[int, Sums]] = {}
        """By step, and by worker."""
        self._done = -1
        self.most_bytes = 8 * self._columns * -(-self._pieces // n)
        """The size of the largest body."""

    def take(self, worker: int, step: int, body: Buffer) -> None:
        """Keep what a worker has sent of the model that the task of ``step`` brought; drop what comes too late.

        Raises
        ------
        MessageError : it is not of the size of that worker's pieces.
        """
        expected = 8 * self._columns * len(pieces_of(worker, self._n, self._pieces))
        if body.size != expected:
            raise MessageError(f"an evaluation of {body.size} bytes where {expected} were expected")
        if step > self._done:
            self._found.setdefault(step, {})[worker] = body.copy().view(np.float64).reshape(-1, self._columns)

    def finish(self, step: int, parameters: Vector) -> Evaluation:
        """Return the figures of the model ``parameters``, (d,), which the task of ``step`` brought."""
        found = self._found.get(step, {})
        self._found = {other: sums for other, sums in self._found.items() if other > step}
        self._done = step
        sums = np.zeros((self._pieces, self._columns))
        for worker in range(self._n):
            pieces = pieces_of(worker, self._n, self._pieces)
            if worker in found:
                sums[pieces] = found[worker]
            else:
                for piece in pieces:
                    sums[piece] = self._evaluator.sums(parameters, piece)
        return self._evaluator.evaluation(sums)


def make_evaluator(experiment: Experiment) -> Evaluator:
    """Load what evaluation needs.

    Raises
    ------
    ConfigError : workers are to evaluate what they can't.
    DataError : a file is missing or not of its format.
    """
    evaluator = experiment.problem.evaluator()
    if experiment.config.run.evaluate == "workers":
        if not isinstance(evaluator, CutsTestSet):
            kind = experiment.config.choices["problem"].kind
            raise ConfigError(f"run.evaluate: 'workers': a problem of kind {kind!r} can't cut its test set; take 'meanwhile'")
        if getattr(experiment.downlink, "dtype", "float32") != "float32":
            raise ConfigError("run.evaluate: 'workers': with downlink.dtype = 'bfloat16' they have a rounded model only")
    return evaluator


def worker_evaluations(experiment: Experiment, evaluator: Evaluator) -> WorkerEvaluations | None:
    """Return what takes in the workers' evaluations; None: they evaluate nothing."""
    if experiment.config.run.evaluate != "workers" or not isinstance(evaluator, CutsTestSet):
        return None
    return WorkerEvaluations(evaluator, experiment.n)


def share_of(experiment: Experiment, worker: int) -> EvaluationShare | None:
    """Return what a worker evaluates, its test set loaded; None: nothing."""
    options = experiment.config.run
    if options.evaluate != "workers" or not options.eval_every:
        return None
    evaluator = make_evaluator(experiment)
    assert isinstance(evaluator, CutsTestSet)
    return EvaluationShare(evaluator, worker, experiment.n, options.eval_every)

"""Evaluates a model in a thread, while the workers compute the next step's gradients.

The thread has a copy of the parameters; torch and numpy release the interpreter while they compute. The record of the
evaluated step is held back until its figures are there, at most until the next step is done: then the run waits for them.
Workers can evaluate in place of the thread: see :mod:`gcdl.training.worker_evaluations`.
The model does not depend on any of it. In a simulation nobody would wait, so evaluation takes place at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from gcdl.problems import Evaluation, Evaluator
from gcdl.protocol.step_record import StepRecord
from gcdl.training.worker_evaluations import WorkerEvaluations
from gcdl.types import Vector

_GIVE_UP_SECONDS = 5.0


@dataclass(eq=False)
class _Running:
    """An evaluation under way."""

    record: StepRecord
    result: Callable[[float | None], Evaluation | None]
    """Waits so many seconds at most (None: for ever), and returns what was found, if it is; raises what evaluating raised."""


class ConcurrentEvaluator:
    """Evaluates models, one at a time.

    Parameters
    ----------
    evaluator : the problem's.
    concurrent : evaluate in a thread; else at once.
    limit : called in the thread first: holds its compute libraries to their share of the cores.
    workers : takes in what the workers evaluate, in place of a thread; None: they evaluate nothing.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        concurrent: bool,
        limit: Callable[[], None],
        workers: WorkerEvaluations | None = None,
    ) -> None:
        self._evaluator = evaluator
        self.concurrent = concurrent or workers is not None
        self._limit = limit
        self._workers = workers
        self._running: _Running | None = None

    @property
    def busy(self) -> bool:
        """Whether an evaluation goes on. Its record is held back."""
        return self._running is not None

    def begin(self, record: StepRecord, parameters: Vector) -> None:
        """Begin to evaluate the model after ``record``'s step, on the test set alone.

        Raises what the evaluation raises, here or in :meth:`settle`.
        """
        if not self.concurrent:
            _note(record, self._evaluator.evaluate(parameters, train=False))
            return
        copy = parameters.copy()
        if (workers := self._workers) is not None:
            step = record.step + 1
            self._running = _Running(record, lambda seconds: workers.finish(step, copy) if seconds is None else None)
            return
        found: list[Evaluation] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                self._limit()
                found.append(self._evaluator.evaluate(copy, train=False))
            except BaseException as error:  # whoever waits for it raises it
                errors.append(error)

        thread = threading.Thread(target=work, name="evaluation", daemon=True)

        def result(seconds: float | None) -> Evaluation | None:
            thread.join(seconds)
            if errors:
                raise errors[0]
            return found[0] if found else None

        self._running = _Running(record, result)
        thread.start()

    def now(self, record: StepRecord | None, parameters: Vector) -> Evaluation:
        """Evaluate at once, on the test set and the whole training set; ``record`` gets the test set's figures."""
        found = self._evaluator.evaluate(parameters, train=True)
        if record is not None:
            _note(record, found)
        return found

    def settle(self) -> None:
        """Wait for the evaluation that goes on, and write its figures to its record."""
        if self._running is None:
            return
        running, self._running = self._running, None
        found = running.result(None)
        assert found is not None
        _note(running.record, found)

    def drop(self) -> None:
        """As :meth:`settle`, for a run that ends early: give up after some seconds, and swallow what it raised."""
        if self._running is None:
            return
        running, self._running = self._running, None
        with suppress(Exception):
            if (found := running.result(_GIVE_UP_SECONDS)) is not None:
                _note(running.record, found)


def _note(record: StepRecord, found: Evaluation) -> None:
    record.test_loss, record.test_accuracy = found.test_loss, found.test_accuracy
    record.metrics.update(found.metrics)

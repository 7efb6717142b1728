"""Evaluates a model while the workers compute the next step's gradients.

The evaluation runs in a thread, on a copy of the parameters; torch and numpy let the others run meanwhile. The run holds the
record of an evaluated step back until its figures are there: until the next step is done, and then it waits. Nothing that
decides the model depends on it. On a virtual clock it runs at once: nobody waits there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from gcdl.problems import Evaluation, Evaluator
from gcdl.protocol.step_record import StepRecord
from gcdl.types import Vector

_GIVE_UP_SECONDS = 5.0


@dataclass(eq=False)
class _Running:
    """An evaluation in a thread."""

    record: StepRecord
    thread: threading.Thread
    found: Evaluation | None = None
    error: BaseException | None = None


class Judge:
    """See the module.

    Parameters
    ----------
    evaluator : judges a model.
    meanwhile : evaluate in a thread; else at once.
    limit : holds the compute libraries of a thread to its share of the cores.
    """

    def __init__(self, evaluator: Evaluator, *, meanwhile: bool, limit: Callable[[], None]) -> None:
        self._evaluator = evaluator
        self._meanwhile = meanwhile
        self._limit = limit
        self._running: _Running | None = None

    @property
    def busy(self) -> bool:
        """Whether an evaluation runs, whose record is held back."""
        return self._running is not None

    def begin(self, record: StepRecord, parameters: Vector) -> None:
        """Evaluate the model after ``record``'s step, without the loss over the whole training set; does not wait.

        Raises whatever the evaluation raises, here or in :meth:`settle`.
        """
        if not self._meanwhile:
            _note(record, self._evaluator.evaluate(parameters, train=False))
            return
        copy = parameters.copy()

        def work() -> None:
            try:
                self._limit()
                running.found = self._evaluator.evaluate(copy, train=False)
            except BaseException as error:  # whoever waits for it raises it
                running.error = error

        running = self._running = _Running(record, threading.Thread(target=work, name="evaluation", daemon=True))
        running.thread.start()

    def now(self, record: StepRecord | None, parameters: Vector) -> Evaluation:
        """Evaluate and wait, the loss over the whole training set included; ``record`` is told, if there is one."""
        found = self._evaluator.evaluate(parameters, train=True)
        if record is not None:
            _note(record, found)
        return found

    def settle(self) -> None:
        """Wait for the evaluation that runs, and tell its record."""
        if self._running is None:
            return
        running, self._running = self._running, None
        running.thread.join()
        if running.error is not None:
            raise running.error
        assert running.found is not None
        _note(running.record, running.found)

    def drop(self) -> None:
        """As :meth:`settle`, but without the figures if they do not come soon: the run ends early."""
        if self._running is None:
            return
        running, self._running = self._running, None
        running.thread.join(_GIVE_UP_SECONDS)
        if running.found is not None:
            _note(running.record, running.found)


def _note(record: StepRecord, found: Evaluation) -> None:
    record.test_loss, record.test_accuracy = found.test_loss, found.test_accuracy
    record.metrics.update(found.metrics)

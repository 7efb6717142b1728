"""What a script can hear of a run beside its loop: :class:`Callback`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gcdl.config import Config
from gcdl.protocol.step_record import StepRecord
from gcdl.training.summary import Summary


class Callback:
    """Is told what happens in a run, on rank 0. Derive from it, and override what you want to hear of.

    ``step`` and ``evaluate`` may return True: then the run stops after that step, as if the loop was left by ``break``. What
    any of them raises ends the run.

    >>> class Patience(Callback):
    ...     '''Stops a run whose test loss was not improved for some evaluations.'''
    ...     def __init__(self, evaluations):
    ...         self.losses, self.evaluations = [], evaluations
    ...     def evaluate(self, record):
    ...         self.losses.append(record.test_loss)
    ...         return min(self.losses) not in self.losses[-self.evaluations :]
    """

    def begin(self, config: Config, folder: Path, done: int) -> None:
        """The run starts and writes to ``folder``; ``done`` steps are there already if it is resumed, else 0."""

    def step(self, record: StepRecord) -> bool | None:
        """A step is done. What is added to ``record.metrics`` is written."""

    def evaluate(self, record: StepRecord) -> bool | None:
        """The model after this step was evaluated on the test set: the record has the figures. Comes before :meth:`step`."""

    def checkpoint(self, step: int, path: Path) -> None:
        """The checkpoint after ``step`` steps was written."""

    def end(self, summary: Summary) -> None:
        """The run is over, and its folder complete. Not called where a run ended by an error or an interrupt."""


class Callbacks:
    """All callbacks of a run, as one."""

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        self._all = list(callbacks)
        self.stop = False
        """Whether one of them wants the run to stop."""

    def begin(self, config: Config, folder: Path, done: int) -> None:
        """See :class:`Callback`."""
        for callback in self._all:
            callback.begin(config, folder, done)

    def record(self, record: StepRecord, *, evaluated: bool) -> None:
        """Tell of a step, and of its evaluation if there was one."""
        for callback in self._all:
            if evaluated and callback.evaluate(record):
                self.stop = True
            if callback.step(record):
                self.stop = True

    def checkpoint(self, step: int, path: Path) -> None:
        """See :class:`Callback`."""
        for callback in self._all:
            callback.checkpoint(step, path)

    def end(self, summary: Summary) -> None:
        """See :class:`Callback`."""
        for callback in self._all:
            callback.end(summary)

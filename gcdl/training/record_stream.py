"""The way of a step's record: to callbacks, to whoever iterates over the run, to the run folder, to loggers and the display."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator

from gcdl.protocol.step_record import StepRecord
from gcdl.training.callbacks import Callbacks
from gcdl.training.loggers.base import Loggers
from gcdl.training.run_folder import RunFolder
from gcdl.training.watcher import Watcher


class RecordStream:
    """Hands out records in their order. A record is held while its step is being evaluated."""

    def __init__(self, folder: RunFolder, callbacks: Callbacks, loggers: Loggers, watcher: Watcher) -> None:
        self._folder = folder
        self._callbacks = callbacks
        self._loggers = loggers
        self._watcher = watcher
        self._held: deque[StepRecord] = deque()

    def hold(self, record: StepRecord) -> None:
        """Take in the record of a step that is done."""
        self._held.append(record)

    def hand_out(self) -> Generator[StepRecord, None, None]:
        """Yield the oldest record, then write it: with what callbacks and whoever iterates have added to its metrics."""
        record = self._held[0]
        evaluated = record.test_loss is not None or record.test_accuracy is not None or bool(record.metrics)
        self._callbacks.record(record, evaluated=evaluated)
        try:
            yield record
        finally:
            self._write(self._held.popleft())
        self._watcher.step(record)

    def flush(self) -> None:
        """Write all records that are held: nobody takes them any more."""
        while self._held:
            self._write(self._held.popleft())

    def _write(self, record: StepRecord) -> None:
        self._folder.write_step(record)
        self._loggers.log(record.line())

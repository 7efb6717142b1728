"""How a script's run reports: on the terminal, or to the log of the name ``gcdl``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from rich.console import Console

from gcdl.config import Config
from gcdl.protocol.step_record import StepRecord
from gcdl.training.display import Display


class LogWatcher:
    """Hands what a run reports to :mod:`logging`."""

    _log = logging.getLogger("gcdl")

    def begin(self, config: Config, folder: Path, done: int) -> None:
        """See :class:`gcdl.training.watcher.Watcher`."""
        self._log.info("%d steps with %s workers; writing to %s", config.steps, config.workers, folder)

    def step(self, record: StepRecord) -> None:
        """See :class:`gcdl.training.watcher.Watcher`."""
        self._log.debug("step %d: loss %g", record.step, record.train_loss)

    def say(self, line: str) -> None:
        """See :class:`gcdl.training.watcher.Watcher`."""
        self._log.warning("%s", line)


class TerminalWatcher:
    """Shows a run on the terminal."""

    def __init__(self) -> None:
        self._display = Display(Console(), Path(sys.argv[0]).stem)
        self._left = 0

    def begin(self, config: Config, folder: Path, done: int) -> None:
        """See :class:`gcdl.training.watcher.Watcher`."""
        self._left = config.steps - done
        self._display.begin(config.steps, config.workers or 0, folder)

    def step(self, record: StepRecord) -> None:
        """See :class:`gcdl.training.watcher.Watcher`."""
        self._display.step(record.line())
        self._left -= 1
        if self._left == 0:
            self._display.__exit__()

    def say(self, line: str) -> None:
        """See :class:`gcdl.training.watcher.Watcher`."""
        self._display.say(line)

"""How a script's run reports: on the terminal, or to the log of the name ``gcdl``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from rich.console import Console

from gcdl.config import Config
from gcdl.host.launcher_environment import Launch
from gcdl.protocol.step_record import StepRecord
from gcdl.training.display import Display
from gcdl.training.shown import Shown
from gcdl.training.summary import Summary
from gcdl.training.watcher import Watcher


class RunWatcher(Watcher):
    """A watcher of a script's run: it is also told of the end."""

    def end(self, summary: Summary, folder: Path) -> None:
        """The run is over, and complete."""

    def close(self) -> None:
        """No more will happen, however the run has ended."""


def on_a_terminal() -> bool:
    """Return whether what this process prints is seen on a terminal. mpirun gives its ranks one, wherever its output goes."""
    return sys.stdout.isatty() and Launch.read().size < 2


class LogWatcher(RunWatcher):
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

    def end(self, summary: Summary, folder: Path) -> None:
        """The run is over."""
        self._log.info("%d steps done; run folder: %s", summary.steps, folder)


class TerminalWatcher(Shown, RunWatcher):
    """Shows a script's run on the terminal."""

    def __init__(self) -> None:
        terminal = on_a_terminal()
        super().__init__(Display(Console(force_terminal=None if terminal else False), Path(sys.argv[0]).stem))

    def end(self, summary: Summary, folder: Path) -> None:
        """Show what the run came to."""
        self._display.report(summary.fields(), folder)

    def close(self) -> None:
        """End what is drawn again and again, however the run has ended."""
        self._display.__exit__()

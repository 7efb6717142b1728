"""A run on a display."""

from __future__ import annotations

from pathlib import Path

from gcdl.config import Config
from gcdl.protocol.step_record import StepRecord
from gcdl.training.display import Display
from gcdl.training.watcher import Watcher


class Shown(Watcher):
    """Shows a run on a display."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def begin(self, config: Config, folder: Path, done: int) -> None:
        """Show that the run begins."""
        self._display.begin(config.steps, config.workers or 0, folder, config.run.masters)

    def step(self, record: StepRecord) -> None:
        """Show a step."""
        self._display.step(record.line())

    def say(self, line: str) -> None:
        """Show a line of text."""
        self._display.say(line)

"""What a run reports while it goes on. A display, a log or a script's callbacks take it."""

from __future__ import annotations

from pathlib import Path

from gcdl.config import Config
from gcdl.protocol.step_record import StepRecord


class Watcher:
    """Is told what happens in a run. This one shows nothing; others override what they show."""

    def begin(self, config: Config, folder: Path, done: int) -> None:
        """The run starts and writes to ``folder``; ``done`` steps are there already if it is resumed, else 0."""

    def step(self, record: StepRecord) -> None:
        """A step is done and recorded."""

    def say(self, line: str) -> None:
        """Something the user should know: one line."""

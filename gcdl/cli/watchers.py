"""What is told how a run goes: a display in this process, or ``gcdl run``, which shows it from another one."""

from __future__ import annotations

import sys
from pathlib import Path

from gcdl.config import Config
from gcdl.launch.control_folder import ControlFolder
from gcdl.protocol.step_record import StepRecord
from gcdl.training.display import Display
from gcdl.training.run_files import STEPS
from gcdl.training.summary import Summary


class Shown:
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


class SupervisedScript:
    """As :class:`Supervised`, for a script's run: ``gcdl run`` is told its folder too."""

    def __init__(self, control: ControlFolder) -> None:
        self._control = control
        self._told = Supervised(control)

    def begin(self, config: Config, folder: Path, done: int) -> None:
        """Say where the run is, and from where the steps are to be read."""
        self._control.announce_folder(folder)
        self._told.begin(config, folder, done)

    def step(self, record: StepRecord) -> None:
        """Do nothing: the step is in ``steps.jsonl``."""

    def say(self, line: str) -> None:
        """Print a line of text."""
        self._told.say(line)

    def end(self, summary: Summary, folder: Path) -> None:
        """Do nothing: ``gcdl run`` shows the summary."""

    def close(self) -> None:
        """Do nothing."""


class Supervised:
    """Tells ``gcdl run`` when the run begins. It reads the steps from the run folder, and shows what this process prints."""

    def __init__(self, control: ControlFolder) -> None:
        self._control = control

    def begin(self, config: Config, folder: Path, done: int) -> None:
        """Say from where the steps are to be read."""
        self._control.announce_steps((folder / STEPS).stat().st_size)

    def step(self, record: StepRecord) -> None:
        """Do nothing: the step is in ``steps.jsonl``."""

    def say(self, line: str) -> None:
        """Print a line of text."""
        print(f"gcdl: {line}", file=sys.stderr, flush=True)

"""How ``gcdl run`` is told how a run goes that it has started: it shows the run from a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from gcdl.config import Config
from gcdl.launch.control_folder import ControlFolder
from gcdl.training.run_files import STEPS
from gcdl.training.script_watchers import RunWatcher


class Supervised(RunWatcher):
    """Tells ``gcdl run`` when the run begins.

    It reads the steps from the run folder, shows what this process prints, and shows the summary.
    """

    def __init__(self, control: ControlFolder) -> None:
        self._control = control

    def begin(self, config: Config, folder: Path, done: int) -> None:
        """Say from where the steps are to be read."""
        self._control.announce_steps((folder / STEPS).stat().st_size)

    def say(self, line: str) -> None:
        """Print a line of text."""
        print(f"gcdl: {line}", file=sys.stderr, flush=True)


class SupervisedScript(Supervised):
    """As :class:`Supervised`, for a script's run: ``gcdl run`` is told its folder too."""

    def begin(self, config: Config, folder: Path, done: int) -> None:
        """Say where the run is, and from where the steps are to be read."""
        self._control.announce_folder(folder)
        super().begin(config, folder, done)

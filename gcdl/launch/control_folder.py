"""The folder through which ``gcdl run`` and rank 0 of its run tell each other small facts, a file each.

==============  ============  =================================================================================
file            written by    content
==============  ============  =================================================================================
``began``       gcdl run      when the job was launched, in seconds of ``time.time()``
``launcher``    gcdl run      its process id and birth: the ranks do not outlive it
``master.pid``  rank 0        its process id, as soon as MPI has started; signals go to it
``ready``       rank 0        how many workers are ready, while they start
``show-from``   rank 0        the byte of ``steps.jsonl`` at which this part of the run begins: the run has begun
``folder``      rank 0        of a script: the run folder, which the script may have chosen; before ``show-from``
``exit-code``   rank 0        the exit code of the run; that of mpirun is no guide
==============  ============  =================================================================================

Ranks on other hosts do not see the folder, and need not: rank 0 is on the host of ``gcdl run``.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from gcdl.host.processes import birth

_BEGAN, _LAUNCHER, _EXIT_CODE = "began", "launcher", "exit-code"
_MASTER, _READY, _SHOW_FROM, _FOLDER = "master.pid", "ready", "show-from", "folder"


@dataclass(frozen=True)
class ControlFolder:
    """The folder, seen from either side. A fact that is not there yet is None."""

    path: Path

    # -- gcdl run

    def announce_launcher(self) -> None:
        """Say that this process launches the job, now."""
        self._write(_BEGAN, repr(time.time()))
        self._write(_LAUNCHER, f"{os.getpid()} {birth(os.getpid())}")

    @property
    def master(self) -> int | None:
        """The process id of rank 0."""
        return self._number(_MASTER)

    @property
    def ready(self) -> int | None:
        """How many workers are ready."""
        return self._number(_READY)

    @property
    def show_from(self) -> int | None:
        """Where in ``steps.jsonl`` this part of the run begins."""
        return self._number(_SHOW_FROM)

    @property
    def folder(self) -> Path | None:
        """The run folder that a script has chosen."""
        try:
            return Path((self.path / _FOLDER).read_text())
        except FileNotFoundError:
            return None

    @property
    def exit_code(self) -> int | None:
        """The exit code of the run."""
        return self._number(_EXIT_CODE)

    # -- the ranks

    @property
    def began(self) -> float:
        """When the job was launched, in seconds of ``time.time()``."""
        return float((self.path / _BEGAN).read_text())

    @property
    def launcher(self) -> tuple[int, int]:
        """The process id of the launcher, and its birth; zeros on a host where it is not."""
        try:
            pid, born = (self.path / _LAUNCHER).read_text().split()
        except FileNotFoundError:
            return 0, 0
        return int(pid), int(born)

    def announce_master(self) -> None:
        """Say that this process is rank 0."""
        self._write(_MASTER, str(os.getpid()))

    def announce_folder(self, folder: Path) -> None:
        """Say in which folder a script's run is."""
        self._write(_FOLDER, str(folder.resolve()))

    def announce_ready(self, ready: int, workers: int) -> None:
        """Say how many workers are ready, of how many."""
        self._write(_READY, str(ready))

    def announce_steps(self, show_from: int) -> None:
        """Say that the run has begun, and where in ``steps.jsonl``."""
        self._write(_SHOW_FROM, str(show_from))

    def decide(self, exit_code: int) -> None:
        """Say how the run ended. If the launcher was killed, nobody is left to remove the folder: remove it."""
        self._write(_EXIT_CODE, str(exit_code))
        pid, born = self.launcher
        if birth(pid) != born:
            shutil.rmtree(self.path, ignore_errors=True)

    def _number(self, name: str) -> int | None:
        try:
            return int((self.path / name).read_text())
        except FileNotFoundError:
            return None

    def _write(self, name: str, text: str) -> None:
        """Write a file at once: a reader sees all of it or none."""
        draft = self.path / f".{name}"
        draft.write_text(text)
        draft.replace(self.path / name)

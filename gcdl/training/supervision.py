"""What ``gcdl run SCRIPT`` and ``gcdl resume`` tell a script's :class:`gcdl.Trainer` in its own process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gcdl.training.script_watchers import RunWatcher


@dataclass
class Supervision:
    """How the first run of a script is to be made; later ones are the script's own business.

    Attributes
    ----------
    out : the run folder, in place of the script's; None: the script's own.
    resume : go on with the run in ``out``.
    run : keys of ``[run]``, in place of the script's.
    watcher : is told what happens; None: the trainer's own display.
    began : when the job was launched, in seconds of ``time.time()``; None: when the run begins.
    """

    out: Path | None = None
    resume: bool = False
    run: Mapping[str, Any] = field(default_factory=dict)
    watcher: RunWatcher | None = None
    began: float | None = None


_current: list[Supervision] = []


def supervise(supervision: Supervision) -> None:
    """Say it to the trainers of the script that this process is about to run."""
    _current[:] = [supervision]


def supervised() -> Supervision | None:
    """Return what is said to the script's next run; None: nothing."""
    return _current[0] if _current else None


def release() -> None:
    """The script's first run has begun: the rest is not supervised."""
    _current.clear()

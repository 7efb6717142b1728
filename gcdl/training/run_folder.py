"""Writes the folder of a run as the run goes on; :mod:`gcdl.training.run_files` says what is in it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gcdl.errors import UsageError
from gcdl.protocol.step_record import StepRecord
from gcdl.training.durable_file import DurableFile
from gcdl.training.past_run import PastRun
from gcdl.training.run_files import CONFIG, MANIFEST, STEPS, SUMMARY, TIMELINE, write_at_once, writing
from gcdl.training.summary import Summary
from gcdl.training.trace_events import Timeline


def check_unused(path: Path) -> None:
    """Raise UsageError if ``path`` holds a run already, or is no folder: a run never overwrites another."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out {path}: not a folder")
    for name in (CONFIG, STEPS, SUMMARY):
        if (path / name).exists():
            raise UsageError(f"--out {path}: there is a run already ({name}); name another folder, or remove it")


def unused(path: Path) -> Path:
    """Return a folder's name that nothing has yet: ``path``, or with a number behind it."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def check_writable(path: Path) -> None:
    """Raise UsageError if no file can be written in a run folder, which need not be there yet. Leaves nothing behind."""
    made: list[Path] = []
    try:
        for folder in reversed([path, *path.parents]):
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UsageError(f"--out {path}: cannot be written: {error.strerror or error}") from None
    finally:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()


class RunFolder:
    """Writes a run's files: of a new run, or (:meth:`reopen`) of one that is resumed.

    Each line is on disk as soon as it is known, so that a killed run leaves what it did. A disk that fills up does not end
    the run. ``workers``: how many rows the timeline has from the beginning; ``masters``: how many share the model.

    Raises
    ------
    UsageError : there is a run already, or the folder can't be written.
    """

    def __init__(
        self,
        path: Path,
        config_toml: str,
        manifest: dict[str, Any],
        say: Callable[[str], None] = lambda line: None,
        *,
        workers: int = 0,
        masters: int = 1,
    ) -> None:
        check_unused(path)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        self._open(path, config_toml, manifest, say, workers, masters)

    @classmethod
    def reopen(
        cls,
        past: PastRun,
        config_toml: str,
        manifest: dict[str, Any],
        say: Callable[[str], None],
        *,
        workers: int = 0,
        masters: int = 1,
    ) -> RunFolder:
        """Go on in the folder of a run that was cut (:meth:`PastRun.cut`) to the step it is resumed from."""
        folder = cls.__new__(cls)
        folder._open(past.folder, config_toml, {**manifest, "resumed": past.resumed}, say, workers, masters)
        return folder

    def _open(
        self, path: Path, config_toml: str, manifest: dict[str, Any], say: Callable[[str], None], workers: int, masters: int
    ) -> None:
        with writing(path):
            self._steps = DurableFile(path / STEPS, say)
            # In this order: the manifest has the config of earlier parts, which the next line overwrites.
            write_at_once(path / MANIFEST, json.dumps(manifest, indent=2) + "\n")
            write_at_once(path / CONFIG, config_toml)
            self._timeline = Timeline(DurableFile(path / TIMELINE, say, buffered=1 << 16), workers, masters)
        self.path = path

    def write_step(self, record: StepRecord) -> None:
        """Append a step."""
        self._steps.write(json.dumps(record.line()) + "\n")
        self._timeline.add(record.step, record.timing)

    def write_summary(self, summary: Summary) -> None:
        """Write the summary, the last file of a run.

        Raises
        ------
        UsageError : it can't be written, or steps could not be.
        """
        self._steps.write("")  # what waits for room
        if self._steps.waiting:
            raise UsageError(f"{self.path / STEPS}: {self._steps.waiting} bytes could not be written: the disk is full")
        with writing(self.path / SUMMARY):
            write_at_once(self.path / SUMMARY, json.dumps(summary.fields(), indent=2) + "\n")

    def close(self) -> None:
        """Close the files. Idempotent."""
        self._steps.close()
        self._timeline.close()

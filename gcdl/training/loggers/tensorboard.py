"""TensorBoard event files. Needs the extra ``tensorboard``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gcdl.errors import UsageError
from gcdl.host.installation import pip_install

FOLDER = "tensorboard"


class TensorBoard:
    """Writes a run's figures to event files in the run folder; ``tensorboard --logdir runs`` shows them."""

    def begin(self, config: Mapping[str, Any], folder: Path) -> None:
        """Open a file.

        Raises
        ------
        UsageError : tensorboard is not installed, or the folder can't be written.
        """
        try:
            from tensorboard.summary import Writer
        except ImportError:
            raise UsageError(f"TensorBoard's event files need the extra: {pip_install('tensorboard')}") from None
        try:
            self._writer = Writer(str(folder / FOLDER))
        except OSError as error:
            raise UsageError(f"{folder / FOLDER}: cannot be written: {error.strerror or error}") from None

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Write a step."""
        for tag, value in figures.items():
            self._writer.add_scalar(tag, value, step=step)

    def end(self, summary: Mapping[str, Any] | None) -> None:
        """Put everything on disk."""
        self._writer.close()

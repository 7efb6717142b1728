"""TensorBoard event files: the scalars of ``steps.jsonl``, step by step. Needs the extra ``tensorboard``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gcdl.errors import UsageError
from gcdl.host.installation import pip_install

FOLDER = "tensorboard"
_SCALARS = {
    "train_loss": "loss/train", "test_loss": "loss/test", "test_accuracy": "accuracy/test", "seconds": "step/seconds",
    "decoding_error": "step/decoding error", "noise_gain": "step/noise gain", "gradient_norm": "step/gradient norm",
    "late": "step/late replies", "uplink_bytes": "bytes/up", "downlink_bytes": "bytes/down",
}  # fmt: skip


class TensorBoardWriter:
    """Writes a run's scalars to ``folder``/tensorboard.

    Raises
    ------
    UsageError : tensorboard is not installed, or the folder can't be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError:
            raise UsageError(f"TensorBoard's event files need the extra: {pip_install('tensorboard')}") from None
        try:
            self._writer = Writer(str(folder / FOLDER))
        except OSError as error:
            raise UsageError(f"{folder / FOLDER}: cannot be written: {error.strerror or error}") from None

    def add(self, line: Mapping[str, Any]) -> None:
        """Write a step: a line of ``steps.jsonl``."""
        found = {tag: line.get(key) for key, tag in _SCALARS.items()}
        found |= {f"metrics/{name}": value for name, value in line.get("metrics", {}).items()}
        found["step/replies"] = len(line["replies"])
        for tag, value in found.items():
            if value is not None:
                self._writer.add_scalar(tag, float(value), step=line["step"])

    def close(self) -> None:
        """Put everything on disk."""
        self._writer.close()

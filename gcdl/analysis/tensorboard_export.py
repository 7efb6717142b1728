"""``gcdl plot --tensorboard``: a run's record as event files for TensorBoard."""

from __future__ import annotations

from pathlib import Path

from gcdl.training.loggers.tensorboard import FOLDER, TensorBoardWriter
from gcdl.training.run_reader import read_run


def export(path: Path) -> Path:
    """Write the scalars of a run folder's steps to event files in it; return their folder.

    Raises
    ------
    UsageError : tensorboard is not installed, or the folder can't be written.
    DataError : not a run folder.
    """
    run, writer = read_run(path), TensorBoardWriter(path)
    for line in run.steps:
        writer.add(line)
    writer.close()
    return path / FOLDER

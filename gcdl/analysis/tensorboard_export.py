"""``gcdl plot --tensorboard``: a run's record as event files for TensorBoard."""

from __future__ import annotations

from pathlib import Path

from gcdl.training.loggers.base import figures_of
from gcdl.training.loggers.tensorboard import FOLDER, TensorBoard
from gcdl.training.run_reader import read_run


def export(path: Path) -> Path:
    """Write the scalars of a run folder's steps to event files in it; return their folder.

    Raises
    ------
    UsageError : tensorboard is not installed, or the folder can't be written.
    DataError : not a run folder.
    """
    run, logger = read_run(path), TensorBoard()
    logger.begin({}, path)
    for line in run.steps:
        logger.log(line["step"], figures_of(line))
    logger.end(run.summary)
    return path / FOLDER

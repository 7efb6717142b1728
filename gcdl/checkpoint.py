"""Checkpoints: what a run has learnt so far, in one file of plain arrays.

``checkpoint/step-00000100.npz`` holds ``step`` (steps done), ``parameters`` (d,), ``accepted`` (n,) and the optimizer's arrays
as ``optimizer.NAME``. Written beside, then renamed: there is never half a checkpoint under its name. The last two are kept.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from gcdl.types import IntVector, Vector

_KEEP = 2


def save(folder: Path, step: int, parameters: Vector, accepted: IntVector, optimizer: dict[str, np.ndarray]) -> Path:
    """Write a checkpoint after ``step`` steps into ``folder``/checkpoint and return its path.

    Raises
    ------
    OSError : it could not be written; earlier ones are as they were.
    """
    directory = folder / "checkpoint"
    directory.mkdir(exist_ok=True)
    path = directory / f"step-{step:08d}.npz"
    draft = path.with_suffix(".draft")
    arrays = {f"optimizer.{name}": value for name, value in optimizer.items()}
    try:
        with draft.open("wb") as file:
            np.savez(file, step=step, parameters=parameters, accepted=accepted, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    for old in sorted(directory.glob("step-*.npz"))[:-_KEEP]:
        old.unlink(missing_ok=True)
    return path

"""Checkpoints: a run after some step, in one file of plain arrays: ``checkpoint/step-00000100.npz``.

=================  ======================================================
step               steps done
parameters         (d,) the model
accepted           (n,) see :class:`Checkpoint`
optimizer.NAME     the optimizer's arrays
downlink.NAME      the downlink's arrays
state.I            the state of worker I's compressor
B, decoder         the code
progress           JSON: :meth:`gcdl.training.progress.Progress.dump`
sha256             over all of the above
=================  ======================================================

No random state is among them: minibatches, delays and compressors draw from generators keyed by (seed, step). A checkpoint is
written under another name, then renamed, so that there is never half a checkpoint under its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from gcdl.errors import DataError
from gcdl.training.run_files import STEPS
from gcdl.types import Buffer, IntVector, Matrix, Vector

FOLDER = "checkpoint"
_PIECE_BYTES = 1 << 22


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run after ``step`` steps.

    ``accepted``, (n,), is the last step decoded with each worker's reply, -1 for none. ``states`` holds the compressor
    states that are known, each (state_bytes,); a worker with ``accepted`` = -1 has none yet.
    """

    step: int
    parameters: Vector
    accepted: IntVector
    optimizer: Mapping[str, np.ndarray]
    states: Mapping[int, Buffer]
    B: Matrix
    decoder: str
    progress: Mapping[str, Any]
    downlink: Mapping[str, np.ndarray] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint into ``folder``/checkpoint, remove all but the last ``keep``, and return its path.

    Raises
    ------
    OSError : it could not be written; earlier ones are as they were.
    """
    directory = folder / FOLDER
    directory.mkdir(exist_ok=True)
    path = directory / f"step-{checkpoint.step:08d}.npz"
    for abandoned in directory.glob("step-*.draft"):  # of a run that was killed while it wrote
        abandoned.unlink(missing_ok=True)
    draft = path.with_suffix(".draft")
    arrays = _arrays(checkpoint)
    try:
        with draft.open("wb") as file:
            _write_arrays(file, {"sha256": np.array(_digest(arrays)), **arrays})
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    _sync(directory)
    for old in _by_step(directory)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    DataError : it is truncated, altered, or no checkpoint.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        digest = str(arrays.pop("sha256"))
    except Exception as error:  # zipfile, zlib and numpy have many for bytes that are not what they should be
        raise DataError(f"{path}: no checkpoint, or a damaged one ({type(error).__name__}: {error})") from None
    if digest != _digest(arrays):
        raise DataError(f"{path}: damaged: its contents do not match its SHA-256")
    try:
        return Checkpoint(
            step=int(arrays["step"]),
            parameters=arrays["parameters"],
            accepted=arrays["accepted"],
            optimizer=_part(arrays, "optimizer."),
            states={int(name[6:]): value for name, value in arrays.items() if name.startswith("state.")},
            B=arrays["B"],
            decoder=str(arrays["decoder"]),
            progress=json.loads(arrays["progress"].tobytes()),
            downlink=_part(arrays, "downlink."),
        )
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: not a checkpoint of this version of gcdl ({error})") from None


def newest(folder: Path, recorded: int | None = None) -> tuple[Checkpoint | None, list[tuple[Path, DataError]]]:
    """Return the newest checkpoint in ``folder``/checkpoint that can be used, None if there is none, and those refused.

    ``recorded``: how many steps ``steps.jsonl`` has. A run that went on from a later checkpoint would have steps that are
    recorded nowhere.
    """
    refused: list[tuple[Path, DataError]] = []
    for path in reversed(_by_step(folder / FOLDER)):
        if recorded is not None and _step_of(path) > recorded:
            refused.append((path, DataError(f"{path}: later than {folder / STEPS}, which has {recorded} good lines")))
            continue
        try:
            return load(path), refused
        except DataError as error:
            refused.append((path, error))
    return None, refused


def newest_step(folder: Path) -> int | None:
    """Return the step of the newest checkpoint in ``folder``/checkpoint, be it good or not; None: there is none."""
    paths = _by_step(folder / FOLDER)
    return _step_of(paths[-1]) if paths else None


def _by_step(directory: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first. From step 10^8 on, names have more than eight digits."""
    return sorted((path for path in directory.glob("step-*.npz") if path.stem[5:].isdecimal()), key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _arrays(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {
        "step": np.array(checkpoint.step),
        "parameters": checkpoint.parameters,
        "accepted": checkpoint.accepted,
        "B": checkpoint.B,
        "decoder": np.array(checkpoint.decoder),
        "progress": np.frombuffer(json.dumps(checkpoint.progress).encode(), dtype=np.uint8),
        **{f"optimizer.{name}": value for name, value in checkpoint.optimizer.items()},
        **{f"downlink.{name}": value for name, value in checkpoint.downlink.items()},
        **{f"state.{worker}": value for worker, value in checkpoint.states.items()},
    }


def _write_arrays(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """As ``np.savez``, but piece by piece and without copies, so that other threads go on meanwhile."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            whole = np.ascontiguousarray(array).reshape(array.shape)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, np.lib.format.header_data_from_array_1_0(whole))
                data = whole.reshape(-1).view(np.uint8).data
                for start in range(0, len(data), _PIECE_BYTES):
                    entry.write(data[start : start + _PIECE_BYTES])


def _part(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of all arrays: names, types, shapes, and bytes."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.ndim else array.tobytes())
    return digest.hexdigest()


def _sync(directory: Path) -> None:
    """Put a folder's entries on disk, so that a rename survives a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

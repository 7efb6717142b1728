"""Delays from a file: seconds by step and worker, as measured by somebody (``gcdl trace``) or made up.

CSV: the header ``step,0,1,...,n-1``, then a line a step, ``0,0.012,inf,...``; steps count from 0. NPZ: an array ``seconds``,
(steps, n). ``inf``: no reply in that step.
"""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gcdl.errors import DataError, ParameterError
from gcdl.stragglers.base import Delays, StepKey
from gcdl.types import Matrix


class TraceDelays:
    """Step t meets row t of the trace.

    Parameters
    ----------
    file : a .csv or .npz file; see the module.
    loop : after the last row begin again; false: from there on nobody is delayed.

    Raises
    ------
    ParameterError : the file is of no known kind.
    DataError : it cannot be read, or is not a trace for n workers; names the line.
    """

    def __init__(self, n: int, *, file: str, loop: bool = True) -> None:
        self.seconds = read_trace(Path(file), n)
        self.loop = loop

    def delays_at(self, n: int, key: StepKey) -> Delays:
        """Return the row of a step."""
        rows = len(self.seconds)
        if key.step >= rows and not self.loop:
            return Delays.of(n)
        return Delays.of(n, compute=self.seconds[key.step % rows])


def read_trace(path: Path, n: int | None = None) -> Matrix:
    """Return the (steps, n) seconds of a trace; n is the file's own when left out.

    Raises
    ------
    ParameterError, DataError : see :class:`TraceDelays`.
    """
    if path.suffix not in (".csv", ".npz"):
        raise ParameterError(f"file: '{path}' is neither .csv nor .npz")
    try:
        _check_content(path)
        return _read_csv(path, n) if path.suffix == ".csv" else _read_npz(path, n)
    except (OSError, UnicodeDecodeError, csv.Error, zipfile.BadZipFile, zlib.error, EOFError, MemoryError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def write_trace(path: Path, seconds: Matrix) -> None:
    """Write (steps, n) seconds as CSV or NPZ, by the name's ending.

    Raises
    ------
    ParameterError : another ending.
    OSError : it cannot be written.
    """
    if path.suffix == ".npz":
        np.savez_compressed(path, seconds=seconds)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["step", *range(seconds.shape[1])])
            writer.writerows([step, *(repr(value) for value in row)] for step, row in enumerate(seconds.tolist()))
    else:
        raise ParameterError(f"file: '{path}' is neither .csv nor .npz")


_FIRST_BYTES = {
    b"\x93NUMPY": "a single numpy array (.npy)",
    b"PK\x03\x04": "a zip archive, as .npz is",
    b"\x1f\x8b": "compressed with gzip",
    b"\xef\xbb\xbf": "text that begins with a byte-order mark",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}
"""What a file is, by how it begins."""


def _check_content(path: Path) -> None:
    """Raise DataError, saying what the file is, if it is not what its name says."""
    with path.open("rb") as file:
        head = file.read(8)
    found = next((what for first, what in _FIRST_BYTES.items() if head.startswith(first)), None)
    zipped = head.startswith(b"PK\x03\x04")
    if path.suffix == ".csv" and found is not None:
        raise DataError(f"{path}: is {found}; a .csv must be plain text in UTF-8, without a byte-order mark")
    if path.suffix == ".npz" and not zipped:
        found = found or ("empty" if not head else "no archive of arrays")
        raise DataError(f"{path}: is {found}; write an .npz by numpy.savez(file, seconds=array)")


def _read_csv(path: Path, n: int | None) -> Matrix:
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        header = next(lines, None)
        if header is None:
            raise DataError(f"{path}: is empty")
        if n is None:
            n = len(header) - 1
        expected = ["step", *map(str, range(n))]
        if [cell.strip() for cell in header] != expected:
            raise DataError(f"{path}, line 1: {_odd_header(header, n)}")
        seconds = [list(_numbers(path, lines.line_num, line, step, n)) for step, line in enumerate(lines)]
    if not seconds:
        raise DataError(f"{path}, line 2: no steps")
    return np.array(seconds)


def _odd_header(header: list[str], n: int) -> str:
    names = [cell.strip() for cell in header]
    missing = [worker for worker in range(n) if str(worker) not in names]
    if missing and names[0] == "step":
        return f"worker {missing[0]} is missing; a trace for {n} workers has the header step,0,...,{n - 1}"
    return f"{','.join(names)[:60]!r} is not the header of a trace for {n} workers: step,0,...,{n - 1}"


def _numbers(path: Path, number: int, line: list[str], step: int, n: int) -> Iterator[float]:
    where = f"{path}, line {number}"
    if len(line) != n + 1:
        raise DataError(f"{where}: {len(line) - 1 if line else 0} values for {n} workers")
    if line[0].strip() != str(step):
        raise DataError(f"{where}: step {line[0]!r} where step {step} was expected")
    for worker, cell in enumerate(line[1:]):
        try:
            value = float(cell)
        except ValueError:
            raise DataError(f"{where}: worker {worker}: {cell!r} is not a number of seconds") from None
        if not value >= 0.0:
            raise DataError(f"{where}: worker {worker}: {cell.strip()} s; a delay is 0 or more, or inf")
        yield value


def _read_npz(path: Path, n: int | None) -> Matrix:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            seconds = np.array(arrays["seconds"])
    except KeyError:
        raise DataError(f"{path}: has no array 'seconds', (steps, n)") from None
    except ValueError as error:
        raise DataError(f"{path}: 'seconds' cannot be read: {error}") from None
    if seconds.dtype.kind not in "fiu" or seconds.ndim != 2 or 0 in seconds.shape:
        raise DataError(f"{path}: 'seconds' is {seconds.dtype} of shape {seconds.shape}; needs numbers, (steps, n)")
    if n is not None and seconds.shape[1] != n:
        raise DataError(f"{path}: 'seconds' is for {seconds.shape[1]} workers, not {n}")
    wrong = np.argwhere(~(seconds >= 0.0))
    if wrong.size:
        step, worker = wrong[0]
        value = seconds[step, worker]
        raise DataError(f"{path}, row {step}: worker {worker}: {value} s; a delay is 0 or more, or inf")
    return seconds.astype(np.float64)

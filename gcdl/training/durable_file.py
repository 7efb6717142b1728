"""A file that grows while the run goes on, and outlives a full disk.

Entries that could not be written are kept in memory, and written when there is room again. So the file has whole entries in
their order, and loses some only if the run ends before there is room.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gcdl.errors import UsageError


class DurableFile:
    """Appends text to a file.

    Parameters
    ----------
    path : the file; what it holds is kept.
    say : takes a line for the user, when writing begins to fail and when it works again.
    buffered : bytes that may wait in memory; 0: each entry is on disk at once.

    Raises
    ------
    OSError : the file can't be opened.
    UsageError : another process writes it.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = lambda line: None, *, buffered: int = 0) -> None:
        self._path = path
        self._say = say
        self._buffered = buffered
        self._waiting = bytearray()
        self._failing = False
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            lock(self._file, path)
        except UsageError:
            os.close(self._file)
            raise
        self._end = os.lseek(self._file, 0, os.SEEK_END)
        self.closed = False

    def write(self, entry: str) -> None:
        """Append an entry."""
        self._waiting += entry.encode()
        if len(self._waiting) > self._buffered:
            self._flush()

    @property
    def waiting(self) -> int:
        """Bytes that are not on disk yet."""
        return len(self._waiting)

    def close(self) -> None:
        """Write what waits, if it can be, and close the file. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._flush()
        if self._waiting:
            self._say(f"{self._path}: {len(self._waiting)} bytes could not be written")
        os.close(self._file)

    def _flush(self) -> None:
        try:
            written = os.pwrite(self._file, self._waiting, self._end)
            if written < len(self._waiting):
                raise OSError("the disk is full")
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, self._end)
            if not self._failing:
                self._say(f"{self._path}: cannot be written: {error.strerror or error}; the run goes on, and tries again")
            self._failing = True
            return
        self._end += written
        self._waiting.clear()
        if self._failing:
            self._say(f"{self._path}: written again, nothing is missing")
        self._failing = False


def lock(file: int, path: Path) -> None:
    """Hold an open file's lock until it is closed.

    Raises
    ------
    UsageError : another process holds it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{path.parent}: a run is writing there now") from None
    except OSError:
        return  # a file system without locks

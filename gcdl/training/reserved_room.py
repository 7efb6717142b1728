"""Room on the disk that a run keeps for its result, so that a disk that fills up meanwhile does not cost the trained model."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_NAME = ".reserved"


class ReservedRoom:
    """A file of ``nbytes`` in the run folder until :meth:`release`. A disk that is too full for it is said."""

    def __init__(self, folder: Path, nbytes: int, say: Callable[[str], None]) -> None:
        self._path = folder / _NAME
        if not nbytes:
            return
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                os.posix_fallocate(file, 0, nbytes)
            finally:
                os.close(file)
        except OSError as error:
            self.release()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                say(f"{folder}: no room for the result, {nbytes / 1e6:.1f} MB; free some before the run ends")

    def release(self) -> None:
        """Give the room back: the result is about to be written. Idempotent."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

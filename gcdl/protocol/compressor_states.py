"""What the master knows of the workers' compressor states, for a checkpoint.

A worker's state changes only when one of its replies is decoded. Between two of those, all checkpoints have the same state of
it. So a worker whose replies have all been late since the last checkpoint is not asked again.

States lie in a file without a name, because n of them would take n times d numbers of the master's memory.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gcdl.protocol.tasks import WorkerState
from gcdl.types import Buffer, IntVector

_NONE = -2  # as of no step


class CompressorStates:
    """The newest known state of each worker.

    Parameters
    ----------
    n : the number of workers.
    state_bytes : the size of a state; 0: there is none, and nothing is ever missing.
    folder : where the file lies; the system's for temporary ones when left out.
    """

    def __init__(self, n: int, state_bytes: int, folder: Path | None = None) -> None:
        self.state_bytes = state_bytes
        self._file = -1
        if state_bytes:
            with tempfile.TemporaryFile(dir=folder) as file:
                self._file = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._file)
            os.ftruncate(self._file, n * state_bytes)  # it takes no room before it is written
        self._as_of = np.full(n, -1, dtype=np.int64)  # nothing decoded, nothing to know: a fresh state
        self._taking = np.full(n, -1, dtype=np.int64)
        """As of which step the state is that comes in parts."""
        self._come = np.zeros(n, dtype=np.int64)
        """How many bytes of it have come."""
        self._reader: Callable[[], object] | None = None

    def take(self, state: WorkerState) -> None:
        """Keep a state, or the next part of one. A full disk makes it one that has not come."""
        if self._reader is not None:
            self._reader()
            self._reader = None
        worker, nbytes = state.worker, state.saved.size
        if state.offset == 0:
            self._as_of[worker] = _NONE
            self._taking[worker], self._come[worker] = state.accepted, 0
        if (self._taking[worker], self._come[worker]) != (state.accepted, state.offset):
            return
        try:
            written = os.pwrite(self._file, state.saved.data, worker * self.state_bytes + state.offset)
        except OSError:
            written = 0
        self._come[worker] += nbytes if written == nbytes else -self.state_bytes
        if self._come[worker] == self.state_bytes:
            self._as_of[worker] = state.accepted

    def forget(self, worker: int) -> None:
        """Note that a worker begins afresh."""
        self._as_of[worker] = -1

    def missing(self, accepted: IntVector) -> list[int]:
        """Return the workers whose state as of ``accepted``, (n,), is not known."""
        return [int(worker) for worker in np.flatnonzero(self._as_of != accepted)] if self.state_bytes else []

    def leave_to(self, reader: Callable[[], object]) -> None:
        """Change nothing of the states before ``reader`` has returned: it waits for whoever reads them."""
        self._reader = reader

    def known(self, accepted: IntVector) -> dict[int, Buffer]:
        """Return the states as of ``accepted`` that are known, mapped from the file; a fresh one is not listed."""
        workers = np.flatnonzero((self._as_of == accepted) & (accepted >= 0)).tolist() if self.state_bytes else []
        if not workers:
            return {}
        mapped = np.frombuffer(mmap.mmap(self._file, 0, access=mmap.ACCESS_READ), dtype=np.uint8)
        states = mapped.reshape(-1, self.state_bytes)
        return {worker: states[worker] for worker in workers}

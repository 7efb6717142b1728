"""What the master knows of the workers' compressor states, for a checkpoint.

A state changes only when a reply of its worker is decoded. So the state as of a worker's last decoded step is the state as
of any checkpoint up to the next decoded one, and a worker that was late ever since need not be asked again.
"""

from __future__ import annotations

import numpy as np

from gcdl.messages import WorkerState
from gcdl.types import Buffer, IntVector


class CompressorStates:
    """The newest known state of each worker.

    Parameters
    ----------
    n : the number of workers.
    state_bytes : the size of a state; 0: there is none, and nothing is ever missing.
    """

    def __init__(self, n: int, state_bytes: int) -> None:
        self.state_bytes = state_bytes
        self._saved = np.zeros((n, state_bytes), dtype=np.uint8)
        self._as_of = np.full(n, -1, dtype=np.int64)  # nothing decoded, nothing to know: a fresh state

    def take(self, state: WorkerState) -> None:
        """Keep a copy of a state."""
        self._saved[state.worker] = state.saved
        self._as_of[state.worker] = state.accepted

    def forget(self, worker: int) -> None:
        """Note that a worker begins afresh."""
        self._as_of[worker] = -1

    def missing(self, accepted: IntVector) -> list[int]:
        """Return the workers whose state as of ``accepted``, (n,), is not known."""
        return [int(worker) for worker in np.flatnonzero(self._as_of != accepted)] if self.state_bytes else []

    def known(self, accepted: IntVector) -> dict[int, Buffer]:
        """Return the states as of ``accepted`` that are known; a fresh one is not listed."""
        if not self.state_bytes:
            return {}
        return {int(worker): self._saved[worker] for worker in np.flatnonzero((self._as_of == accepted) & (accepted >= 0))}

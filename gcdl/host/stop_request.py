"""A request to stop, by Ctrl-C, SIGTERM or SIGUSR1. It sets a flag, which is looked at where a run can stop.

Slurm can be told to send SIGUSR1 some time before a job's time is up (``sbatch --signal=B:USR1@90``).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass
class StopRequest:
    """The flag. ``signal``: the number of the signal that came; 0: none. Transports look at it while they wait."""

    signal: int = 0

    def __call__(self) -> bool:
        """Return whether a request has come."""
        return self.signal != 0

    def clear(self) -> None:
        """Forget the request: the run has begun to stop."""
        self.signal = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch SIGNALS within this block. Outside the main thread, where Python can't catch signals, it does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def caught(number: int, frame: object) -> None:
            self.signal = number

        old = {number: signal.signal(number, caught) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

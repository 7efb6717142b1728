"""Ctrl-C, SIGTERM and SIGUSR1, as a flag that is looked at where a run may stop.

SIGUSR1 is what Slurm can be asked to send some time before a job's end (``sbatch --signal=B:USR1@90``).
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
    """Set by one of SIGNALS; the transports look at it while they wait."""

    signal: int = 0

    def __call__(self) -> bool:
        """Say whether the user wants to stop."""
        return self.signal != 0

    def clear(self) -> None:
        """Forget the signal: what it asked for has begun."""
        self.signal = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch SIGNALS in this block, where that is possible: in the main thread."""
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

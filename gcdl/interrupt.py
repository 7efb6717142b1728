"""Ctrl-C and SIGTERM, as a flag that is looked at where a run may stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class StopRequest:
    """Set by Ctrl-C or SIGTERM; the transports look at it while they wait."""

    signal: int = 0

    def __call__(self) -> bool:
        """Say whether the user wants to stop."""
        return self.signal != 0

    def clear(self) -> None:
        """Forget the signal: what it asked for has begun."""
        self.signal = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch SIGINT and SIGTERM in this block, where that is possible: in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def caught(number: int, frame: object) -> None:
            self.signal = number

        old = {number: signal.signal(number, caught) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

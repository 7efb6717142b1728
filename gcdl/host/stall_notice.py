"""A line for the user when nothing has been heard from the master for long: a hung run must not look like a slow one."""

from __future__ import annotations

import time

from gcdl.host.processes import stopped

_FIRST_SECONDS = 60.0


class Silence:
    """Measures how long the master has been silent.

    The first notice is due after ``seconds`` of silence, each further one after twice as long as the one before.
    """

    def __init__(self, seconds: float = _FIRST_SECONDS) -> None:
        self._first = seconds
        self.broken()

    def broken(self) -> None:
        """Start anew: something was heard."""
        self._since = time.monotonic()
        self._next = self._first

    def news(self, master: int | None) -> str:
        """Return a line for the user if one is due, else "". ``master``: the id of its process; None: it has not come up."""
        silent = time.monotonic() - self._since
        if silent < self._next:
            return ""
        self._next *= 2.0
        if master is None:
            return f"rank 0 has not come up in {silent:.0f} s"
        hint = f": it is stopped; kill -CONT {master} lets it go on" if stopped(master) else ""
        return f"nothing heard from the master (rank 0, pid {master}) for {silent:.0f} s{hint}"

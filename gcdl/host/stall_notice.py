"""Says when nothing has been heard from the master for long: a hung run must not look like a slow one."""

from __future__ import annotations

import time
from pathlib import Path

_FIRST_SECONDS = 60.0


class Silence:
    """Watches for silence. ``seconds``: how much of it is worth a word; twice as much for the next one, and so on."""

    def __init__(self, seconds: float = _FIRST_SECONDS) -> None:
        self._first = seconds
        self.broken()

    def broken(self) -> None:
        """Something was heard."""
        self._since = time.monotonic()
        self._next = self._first

    def news(self, master: int | None) -> str:
        """Return a line for the user if it is time for one, else ""; ``master``: the id of its process, if it has one."""
        silent = time.monotonic() - self._since
        if silent < self._next:
            return ""
        self._next *= 2.0
        if master is None:
            return f"rank 0 has not come up in {silent:.0f} s"
        stopped = f": it is stopped; kill -CONT {master} lets it go on" if _state(master) in "Tt" else ""
        return f"nothing heard from the master (rank 0, pid {master}) for {silent:.0f} s{stopped}"


def _state(pid: int) -> str:
    """Return the one-letter state of a process of this machine; "?" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return "?"

"""What a job prints: the lines of its ranks, and mpirun's own notices, which stand between two rules of dashes.

mpirun also reports the death of a process in such a notice. It is left out: the master reports a death better.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import IO

_NOTICE_LINES = 50
"""A notice that is longer has lost its closing rule; it is passed on as it is."""
_RULE_COLUMNS = 60
_END_SECONDS = 5.0


class JobOutput:
    """Reads a job's output in a thread of its own, so that the job never waits for a reader."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def new_lines(self) -> Iterator[str]:
        """Yield the lines that have come since the last call. Never blocks."""
        while not self._lines.empty():
            yield self._lines.get()

    def close(self) -> None:
        """Wait for the rest, up to 5 s: a process that outlives the job may still hold the other end."""
        self._thread.join(_END_SECONDS)
        if not self._thread.is_alive():
            self._pipe.close()

    def _read(self) -> None:
        for line in worth_showing(self._pipe):
            self._lines.put(line)


def worth_showing(lines: Iterable[str]) -> Iterator[str]:
    """Yield a job's lines, without the notices that tell of the death of a process."""
    notice: list[str] = []
    for line in map(str.rstrip, lines):
        rule = len(line) > _RULE_COLUMNS and not line.strip("-")
        if not notice and not rule:
            yield line
            continue
        notice.append(line)
        if (rule and len(notice) > 1) or len(notice) > _NOTICE_LINES:
            yield from _without_death(notice)
            notice = []
    yield from _without_death(notice)


def _without_death(notice: list[str]) -> list[str]:
    if not any("noticed that process rank" in line for line in notice):
        return notice
    return [line for line in notice if not line.startswith(("---", "signal ")) and "noticed that process rank" not in line]

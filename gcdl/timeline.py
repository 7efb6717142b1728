"""When the parts of a step happened, and the timeline they are drawn on: Trace Events, which Perfetto opens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.void]
"""(m,) replies as a table; see :func:`rows_of`."""
_ROW = np.dtype(
    [("worker", np.int64), ("step", np.int64), ("received", np.float64), ("loss", np.float64)]
    + [(name, np.float64) for name in ("slept", "computed", "held", "encoded")]
    + [("clipped", np.int64)]
)


def rows_of(m: int) -> Rows:
    """Return an empty table of m replies.

    ``worker``, ``step``; ``received``: when it reached the master, on the transport's clock; ``loss``: coded; and the seconds
    its worker ``slept`` (injected, before computing), ``computed``, ``held`` it (injected, after that) and ``encoded``;
    ``clipped``: coordinates beyond the scale agreed on.
    """
    return np.zeros(m, dtype=_ROW)


@dataclass(frozen=True, slots=True)
class StepTiming:
    """When the parts of a step ended, on the transport's clock, in seconds."""

    began: float
    sent: float
    waited: float
    decoded: float
    ended: float
    replies: Rows
    """Of the replies that were used, in worker order."""


_SENT_UP = 0.1
"""Share of the travel that is drawn as the way up: replies are small."""
_WORKERS_DRAWN = 64


class _Appendable(Protocol):
    """A text file, or a journal."""

    closed: bool

    def write(self, text: str, /) -> object: ...
    def close(self) -> None: ...


class Timeline:
    """Trace Events: the master's send, wait, decode and step; what each worker that was used did, of the first 64."""

    def __init__(self, file: _Appendable) -> None:
        self._file = file
        self._file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        self._named: set[int] = set()
        self._name(0, "master")

    def add(self, step: int, timing: StepTiming) -> None:
        """Append a step's events."""
        edges = (timing.began, timing.sent, timing.waited, timing.decoded, timing.ended)
        for name, start, end in zip(("send", "wait", "decode", "step"), edges[:-1], edges[1:], strict=True):
            self._event(0, name, start, end, step)
        for reply in timing.replies[timing.replies["worker"] < _WORKERS_DRAWN]:
            row = int(reply["worker"]) + 1
            if row not in self._named:
                self._name(row, f"worker {row - 1}")
            self._worker(row, step, timing.began, reply)

    def _worker(self, row: int, step: int, began: float, reply: np.void) -> None:
        """Draw what a worker did for a reply.

        It tells how long each part took, not when: clocks of different hosts can't be compared. What is left of the time since
        the step began is travel, and waiting for the worker to be free; it is drawn where most of it is, before the work.
        """
        parts = {
            "injected sleep": float(reply["slept"]),
            "compute": float(reply["computed"]),
            "injected sleep (sending)": float(reply["held"]),
            "encode": float(reply["encoded"]),
        }
        left = max(0.0, float(reply["received"]) - began - sum(parts.values()))
        send = _SENT_UP * left
        start = began
        for name, seconds in {"receive": left - send, **parts, "send": send}.items():
            if seconds > 0.0:
                self._event(row, name, start, start + seconds, step)
            start += seconds

    def close(self) -> None:
        """Complete the JSON and close the file. Idempotent."""
        if not self._file.closed:
            self._file.write('{"ph": "M", "pid": 0, "name": "process_name", "args": {"name": "gcdl"}}\n]}\n')
            self._file.close()

    def _name(self, row: int, name: str) -> None:
        self._named.add(row)
        self._write({"ph": "M", "pid": 0, "tid": row, "name": "thread_name", "args": {"name": name}})

    def _event(self, row: int, name: str, start: float, end: float, step: int) -> None:
        microseconds = {"ts": round(start * 1e6, 1), "dur": round((end - start) * 1e6, 1)}
        self._write({"ph": "X", "pid": 0, "tid": row, "name": name, **microseconds, "args": {"step": step}})

    def _write(self, event: dict[str, Any]) -> None:
        self._file.write(json.dumps(event) + ",\n")

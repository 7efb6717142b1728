"""When the parts of a step happened, and the timeline they are drawn on: Trace Events, which Perfetto opens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ReplyTiming:
    """When a reply that was used reached the master, and what its worker spent, in seconds."""

    worker: int
    received: float
    slept: float
    computed: float


@dataclass(frozen=True, slots=True)
class StepTiming:
    """When the parts of a step ended, on the transport's clock, in seconds."""

    began: float
    sent: float
    waited: float
    decoded: float
    ended: float
    replies: tuple[ReplyTiming, ...]


class _Appendable(Protocol):
    """A text file, or a journal."""

    closed: bool

    def write(self, text: str, /) -> object: ...
    def close(self) -> None: ...


class Timeline:
    """Trace Events: the master's send, wait, decode and step; the sleep and compute of each worker that was used."""

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
        for reply in timing.replies:
            row = reply.worker + 1
            if row not in self._named:
                self._name(row, f"worker {reply.worker}")
            slept_until = reply.received - reply.computed
            self._event(row, "compute", slept_until, reply.received, step)
            if reply.slept > 0.0:
                self._event(row, "injected sleep", slept_until - reply.slept, slept_until, step)

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

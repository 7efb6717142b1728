"""The timeline of a run: Trace Events, which Perfetto opens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from gcdl.protocol.measurements import StepTiming

_MEASURED = ("worker", "step", "received", "slept", "computed", "held", "encoded")
_PARTS = ("receive", "injected sleep", "compute", "injected sleep (sending)", "encode", "send")
_SENT_UP = 0.1
"""Share of the travel that is drawn as the way up: replies are small."""
_WORKERS_DRAWN = 64
_STEPS_KNOWN = 4096
"""How many steps back a late reply may be from, and still be drawn from the beginning of its step."""


class _Appendable(Protocol):
    """A text file, or a :class:`gcdl.training.durable_file.DurableFile`."""

    closed: bool

    def write(self, text: str, /) -> object: ...
    def close(self) -> None: ...


class Timeline:
    """Trace Events: the master's send, wait, decode and step; what each worker did, of the first 64.

    Each of several masters has a row. Of the others rank 0 knows when it told them to decode, and when all had answered: their
    rows say "wait" until it told them, then "decode, step".

    A late reply's parts say so in their names. Where a worker answered nothing that was asked of it (it slept, was superseded,
    stopped or lost), its row says "no reply".
    """

    def __init__(self, file: _Appendable, workers: int = 0, masters: int = 1) -> None:
        self._file = file
        self._file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        self._written: list[str] = []
        """Events that the file has not got yet: those of a step are written together."""
        self._rows: dict[int, _Row] = {}
        self._began: dict[int, float] = {}
        self._step: int | None = None
        """The last step, which ended at ``_ended``."""
        self._ended = 0.0
        self._masters = masters
        self._name(0, "master")
        for master in range(1, masters):
            self._name(master, f"slice master {master}")
        for worker in range(min(workers, _WORKERS_DRAWN)):
            self._row(worker, None)
        self._flush()

    def add(self, step: int, timing: StepTiming) -> None:
        """Append a step's events."""
        edges = (timing.began, timing.sent, timing.waited, timing.decoded, timing.ended)
        for name, start, end in zip(("send", "wait", "decode", "step"), edges[:-1], edges[1:], strict=True):
            self._event(0, name, start, end, step)
        for master in range(1, self._masters):
            self._event(master, "wait", timing.began, timing.waited, step)
            self._event(master, "decode, step", timing.waited, timing.decoded, step)
        if self._step is None:
            for row in self._rows.values():
                row.answered, row.until = step - 1, timing.began
        self._began[step] = timing.began
        if len(self._began) > _STEPS_KNOWN:
            del self._began[next(iter(self._began))]
        # A worker's late reply came before its reply to this step.
        for rows, mark in ((timing.late, " (late)"), (timing.replies, "")):
            drawn = rows[rows["worker"] < _WORKERS_DRAWN]
            for reply in zip(*(drawn[name].tolist() for name in _MEASURED), strict=True):
                self._worker(reply, timing.began, mark)
        self._step, self._ended = step, timing.ended
        self._flush()

    def _worker(self, reply: tuple[Any, ...], began: float, mark: str) -> None:
        """Draw what a worker did for a reply: ``_MEASURED`` of it.

        It tells how long each part took, not when: clocks of different hosts can't be compared. What is left of the time since
        its step began, or since the worker's last reply, is travel, and waiting for the worker to be free; it is drawn where
        most of it is, before the work.
        """
        worker, step, received, slept, computed, held, encoded = reply
        row = self._row(worker, step)
        start = max(self._began.get(step, began), row.until)
        self._silence(worker, row, step, start)
        left = max(0.0, received - start - (slept + computed + held + encoded))
        send = _SENT_UP * left
        for name, seconds in zip(_PARTS, (left - send, slept, computed, held, encoded, send), strict=True):
            if seconds > 0.0:
                self._event(worker + self._masters, name + mark, start, start + seconds, step)
            start += seconds
        row.answered, row.until = max(row.answered, step), start

    def _silence(self, worker: int, row: _Row, step: int, until: float) -> None:
        """Draw the steps before ``step`` that a worker has not answered."""
        if row.answered < step - 1 and until > row.until:
            self._event(worker + self._masters, "no reply", row.until, until, row.answered + 1, step - 1)

    def close(self) -> None:
        """Complete the JSON and close the file. Idempotent."""
        if not self._file.closed:
            if self._step is not None:
                for worker, row in self._rows.items():
                    self._silence(worker, row, self._step + 1, self._ended)
            self._flush()
            self._file.write('{"ph": "M", "pid": 0, "name": "process_name", "args": {"name": "gcdl"}}\n]}\n')
            self._file.close()

    def _row(self, worker: int, step: int | None) -> _Row:
        """Return a worker's row; ``step`` is the first that it is known to have been asked for."""
        if worker not in self._rows:
            self._rows[worker] = _Row(-1 if step is None else step - 1, 0.0)
            self._name(worker + self._masters, f"worker {worker}")
        return self._rows[worker]

    def _name(self, row: int, name: str) -> None:
        self._write({"ph": "M", "pid": 0, "tid": row, "name": "thread_name", "args": {"name": name}})

    def _event(self, row: int, name: str, start: float, end: float, step: int, to: int | None = None) -> None:
        """Write a slice of a step, or of the steps up to ``to``.

        Both of its ends are rounded to whole microseconds, so that it touches its neighbours exactly. Perfetto drops a slice
        that overlaps another one of its row in part. A length rounded by itself would do that, and so would a fraction, which a
        reader may take for a neighbouring number.
        """
        first, last = round(start * 1e6), round(end * 1e6)
        if first < last:
            # By hand, for json takes ten times as long, and there are several events a worker and step.
            steps = f'"step": {step}' if to is None else f'"step": {step}, "to": {to}'
            times = f'"ts": {first}, "dur": {last - first}'
            self._written.append(f'{{"ph": "X", "pid": 0, "tid": {row}, "name": "{name}", {times}, "args": {{{steps}}}}},\n')

    def _write(self, event: dict[str, Any]) -> None:
        self._written.append(json.dumps(event) + ",\n")

    def _flush(self) -> None:
        self._file.write("".join(self._written))
        self._written.clear()


@dataclass
class _Row:
    """A worker's row: the last step it answered, and the time up to which it is drawn."""

    answered: int
    until: float

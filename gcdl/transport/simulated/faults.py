"""Injected faults on a virtual clock: whom they strike when, and what becomes of the job they strike.

The job of a task begins when its worker takes the task up. If a newer task comes before that, the fault strikes the job of
that one: a :class:`Blow` is known to have struck only when its job has begun.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from gcdl.errors import WorkerError, WorkerLost
from gcdl.stragglers import Fault, InjectedError


@dataclass(frozen=True, eq=False, slots=True)
class Blow:
    """What the faults of one worker do to a job.

    ``silent``: seconds from its beginning in which the process is stopped, inf: it does not come back. ``slept``: seconds of
    sleep before computing. ``corrupt``: bits of its reply are flipped. ``end``: what the master is told at ``ends``, seconds
    after the job began.
    """

    faults: tuple[Fault, ...]
    silent: float
    slept: float
    corrupt: bool
    end: WorkerLost | WorkerError | None
    ends: float


class Mishaps:
    """``pending``: the faults that have not struck yet."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.pending = list(faults)

    def workers(self, step: int) -> list[int]:
        """Return whom a fault strikes in a job of ``step``, ascending."""
        return sorted({fault.worker for fault in self.pending if fault.step <= step})

    def blow(self, worker: int, step: int) -> Blow:
        """Take the faults that strike a worker's job of ``step``."""
        due = tuple(fault for fault in self.pending if fault.worker == worker and fault.step <= step)
        self.pending = [fault for fault in self.pending if fault not in due]
        silent = slept = 0.0
        corrupt = False
        for fault in due:
            if fault.fault == "kill":
                return Blow(due, math.inf, 0.0, False, WorkerLost(worker, "killed by an injected fault"), silent)
            if fault.fault == "raise":
                return Blow(due, math.inf, 0.0, False, _raised(worker, step), silent)
            if fault.fault == "stop":
                silent += fault.seconds
            elif fault.fault == "slow":
                slept += fault.seconds
            elif fault.fault == "corrupt":
                corrupt = True
        return Blow(due, silent, slept, corrupt, None, math.inf)

    def put_back(self, blow: Blow) -> None:
        """The job never began."""
        self.pending = [*blow.faults, *self.pending]


def worker_error(worker: int, error: Exception) -> WorkerError:
    """Return what the master is told of an exception in a worker."""
    text = "".join(traceback.format_exception(error))
    return WorkerError(f"worker {worker}: {type(error).__name__}: {error}", worker=worker, traceback=text)


def _raised(worker: int, step: int) -> WorkerError:
    try:
        raise InjectedError(worker, step)
    except InjectedError as error:
        return worker_error(worker, error)

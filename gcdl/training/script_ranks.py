"""The ranks of a script under ``mpirun``: rank 0 iterates over a run's records, the others serve until the run is over.

At the end rank 0 tells the others how the run ended and, if it ended well, the trained model. An error is raised on all ranks.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from gcdl.config import Config
from gcdl.errors import GcdlError, MasterGone, UsageError
from gcdl.host.installation import no_mpi
from gcdl.host.launcher_environment import Launch, alone
from gcdl.protocol.step_record import StepRecord
from gcdl.training.loop import CallerFailed, Run
from gcdl.training.roles import run_worker
from gcdl.training.summary import Summary
from gcdl.types import Vector

if TYPE_CHECKING:
    from gcdl.transport.mpi.job import Job

_LEARN_SECONDS = 120.0
_ACTIVE: weakref.WeakSet[Run] = weakref.WeakSet()
"""Runs whose records somebody iterates over."""


class EndedOnMaster(GcdlError):
    """On a rank other than 0: the run ended early. Rank 0 says why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@cache
def script_job() -> Job | None:
    """Return the MPI job that this process is a rank of; None: it is alone.

    Raises
    ------
    UsageError : mpirun started several processes, each of which thinks that it is alone.
    """
    launch = Launch.read()
    if launch.size < 2 and "GCDL_REPLACEMENT" not in os.environ:
        return None
    try:
        from gcdl.transport.mpi.job import world
    except (ImportError, RuntimeError) as error:
        raise UsageError(no_mpi(error)) from None
    job = world()
    if job.workers < 1:
        raise UsageError(alone(launch))

    def close() -> None:
        for run in list(_ACTIVE):
            _fail(run)

    atexit.register(close)  # goes before MPI's end, which was registered before
    return job


def hand_out(run: Run) -> Generator[StepRecord, None, Summary]:
    """Yield a run's records. While the loop's body runs, Ctrl-C does what it did before the run began."""
    before = signal.getsignal(signal.SIGINT)
    _ACTIVE.add(run)
    try:
        while True:
            try:
                record = next(run)
            except StopIteration as done:
                summary: Summary = done.value
                return summary
            with _handling_interrupts_by(before):
                yield record
    except CallerFailed:
        _fail(run)
        raise
    finally:
        run.close()
        _ACTIVE.discard(run)


def lead(job: Job, run: Run, trained: Callable[[], Vector | None]) -> Generator[StepRecord, None, Summary]:
    """Be rank 0: yield a run's records, then tell the other ranks how it ended.

    ``trained`` returns the (d,) model that all ranks go on with, if there is one.
    """
    outcome: dict[str, Any] = {"exit_code": 1, "message": "the script ended"}
    try:
        summary = yield from hand_out(run)
        outcome = {"exit_code": 0}
        return summary
    except (GeneratorExit, CallerFailed):
        outcome = {"exit_code": 0}
        raise
    except GcdlError as error:
        outcome = {"exit_code": error.exit_code, "message": str(error)}
        raise
    finally:
        job.part(outcome, trained() if outcome["exit_code"] == 0 else None)


def serve(job: Job, config: Config) -> Vector | None:
    """Be a worker until the run is over; return the trained model, (d,), if rank 0 sent one.

    Raises
    ------
    EndedOnMaster : the run ended early.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        there_was = run_worker(job, config, config.run.master_timeout)
        if job.late:
            job.end(0)
        outcome, model = job.learn(_LEARN_SECONDS) if there_was else ({"exit_code": UsageError.exit_code}, None)
    except MasterGone as error:
        if job.rank == 1:
            print(f"gcdl: {error}", file=sys.stderr)
        job.abandon()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if outcome["exit_code"]:
        raise EndedOnMaster(str(outcome.get("message", "the run could not begin")), int(outcome["exit_code"]))
    return model


def _fail(run: Run) -> None:
    """End a run early: whoever iterates over it has failed."""
    with suppress(CallerFailed, StopIteration):
        run.throw(CallerFailed())


@contextmanager
def _handling_interrupts_by(handler: Any) -> Iterator[None]:
    """Let ``handler`` take Ctrl-C in this block. Only the main thread can set handlers; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield
        return
    mine = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, mine)

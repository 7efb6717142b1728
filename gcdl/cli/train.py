"""``gcdl train``: one rank of a run, as mpirun or srun starts it. ``gcdl run`` calls it with ``--control``."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from gcdl.cli.errors import tell
from gcdl.cli.options import OptionalConfig, Out, Overrides, run_folder
from gcdl.cli.watchers import Supervised
from gcdl.config import load
from gcdl.errors import MasterGone, UsageError
from gcdl.host.processes import end_soon, start_time, when_gone
from gcdl.launch.control_folder import ControlFolder
from gcdl.launch.join import join
from gcdl.training.display import Display
from gcdl.training.shown import Shown
from gcdl.training.starting_point import StartingPoint
from gcdl.training.starting_point import resume as find_start

if TYPE_CHECKING:
    from gcdl.training.roles.master import Ready
    from gcdl.training.summary import Summary
    from gcdl.training.watcher import Watcher
    from gcdl.transport.mpi.job import Job

_SECONDS_AFTER_LAUNCHER = 20.0
"""How long a rank may take to end after its launcher was killed: the master writes a checkpoint in that time."""


def train(
    config: OptionalConfig = None,
    overrides: Overrides = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out DIR; no CONFIG.")] = False,
    control: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Be one rank of a run: mpirun -n 9 gcdl train CONFIG (rank 0 is the master, n = ranks - masters - spares)."""
    supervised = None if control is None else ControlFolder(control)
    try:
        job = join()
    except UsageError as error:
        if supervised is None:
            raise
        supervised.decide(tell(error))
        raise typer.Exit from None
    if supervised is not None:
        # A launcher that was killed can't end the ranks.
        when_gone(*supervised.launcher, lambda: end_soon(_SECONDS_AFTER_LAUNCHER, interrupt=job.rank == 0))
    if job.rank > 0:
        _be_worker(job)

    def start() -> StartingPoint:
        return _start(config, overrides or [], out, resume)

    if supervised is None:
        code = _lead(job, start, (out or config or Path("run")).stem)
    else:
        _lead_supervised(job, start, supervised)
        code = 0  # gcdl run has the exit code; mpirun would report a failure in its own words too
    job.end(code)


def _be_worker(job: Job) -> NoReturn:
    """Be a worker until the run is over. Only rank 0 reads the config and speaks to the user."""
    try:
        from gcdl.training.roles import run_worker

        run_worker(job)
    except MasterGone as error:
        if job.rank == 1:
            print(f"gcdl: {error}", file=sys.stderr)
        job.abandon()
    except BaseException:
        traceback.print_exc()
        job.abandon()
    job.end(0)


def _lead(job: Job, start: Callable[[], StartingPoint], name: str) -> int:
    """Be the master, and show the run; return the exit code."""
    display = Display(Console(force_terminal=False), name)
    found: list[StartingPoint] = []

    def read() -> StartingPoint:
        found.append(start())
        return found[-1]

    try:
        summary = _run_master(job, read, Shown(display), start_time())
        display.report(summary.fields(), found[-1].out)
    except BaseException as error:
        return tell(error)
    return 0


def _lead_supervised(job: Job, start: Callable[[], StartingPoint], control: ControlFolder) -> None:
    """Be the master of a run that ``gcdl run`` shows."""
    control.announce_master()
    code = 0
    try:
        _run_master(job, start, Supervised(control), control.began, control.announce_ready)
    except BaseException as error:
        code = tell(error)
    control.decide(code)


def _run_master(job: Job, start: Callable[[], StartingPoint], watcher: Watcher, began: float, *more: Ready) -> Summary:
    from gcdl.training.roles import run_master  # imports much: errors before it come sooner

    return run_master(job, start, watcher, began, *more)


def _start(config: Path | None, overrides: list[str], out: Path | None, resume: bool) -> StartingPoint:
    """Read the config of a new run, or find out how to go on with an earlier one."""
    if resume:
        if out is None:
            raise UsageError("gcdl train --resume: name the run folder with --out DIR")
        return find_start(out, overrides if config is None else [str(config), *overrides])
    if config is None:
        raise UsageError("gcdl train: name a config, or a run to go on with: --resume --out DIR")
    return StartingPoint(load(config, overrides), run_folder(out, config))

"""``gcdl script``: one rank of a script, as ``gcdl run SCRIPT`` starts it; or a script alone, as ``gcdl resume`` does."""

from __future__ import annotations

import runpy
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from gcdl.cli.errors import tell
from gcdl.cli.watchers import SupervisedScript
from gcdl.config import nested
from gcdl.errors import GcdlError, Interrupted, UsageError
from gcdl.host.launcher_environment import Launch
from gcdl.host.processes import end_soon, when_gone
from gcdl.launch.control_folder import ControlFolder
from gcdl.launch.join import join
from gcdl.training.script_ranks import EndedOnMaster
from gcdl.training.supervision import Supervision, supervise

_SECONDS_AFTER_LAUNCHER = 20.0


def script(
    path: Annotated[Path, typer.Argument()],
    arguments: Annotated[list[str] | None, typer.Argument()] = None,
    out: Annotated[Path | None, typer.Option()] = None,
    control: Annotated[Path | None, typer.Option()] = None,
    resume: Annotated[bool, typer.Option("--resume")] = False,
    run: Annotated[list[str] | None, typer.Option()] = None,
) -> None:
    """Run a script as one of the ranks of a run. Options go before its path; the rest is the script's."""
    supervision = Supervision(out=out, resume=resume, run=nested(run or []).get("run", {}))
    if control is None:
        supervise(supervision)
        raise typer.Exit(_run(path, arguments or [], speaks=True))
    supervised = ControlFolder(control)
    try:
        job = join()
    except UsageError as error:
        supervised.decide(tell(error))
        raise typer.Exit from None
    when_gone(*supervised.launcher, lambda: end_soon(_SECONDS_AFTER_LAUNCHER, interrupt=job.rank == 0))
    if job.rank == 0:
        supervised.announce_master()
        supervision.watcher, supervision.began = SupervisedScript(supervised), supervised.began
    supervise(supervision)
    code = _run(path, arguments or [], speaks=job.rank == 0)
    if job.rank == 0:
        supervised.decide(code)
    job.end(0)  # gcdl run has the exit code


def _run(path: Path, arguments: list[str], *, speaks: bool) -> int:
    """Run a script as python does; return its exit code. Not all ranks say what all have met: ``speaks``."""
    sys.argv = [str(path), *arguments]
    sys.path[0] = str(path.resolve().parent)
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, int | None):
            return end.code or 0
        if speaks:
            print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return Interrupted.exit_code
    except EndedOnMaster as error:
        return error.exit_code
    except BaseException as error:
        if isinstance(error, GcdlError):
            return tell(error) if speaks else error.exit_code
        if speaks:
            _print_traceback(error)
        else:
            print(f"gcdl: rank {Launch.read().rank}: {type(error).__name__}: {error}", file=sys.stderr)
        return GcdlError.exit_code
    return 0


def _print_traceback(error: BaseException) -> None:
    """Print the part of a traceback that is the script's."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__") != "__main__":
        frames = frames.tb_next
    traceback.print_exception(error.with_traceback(frames or error.__traceback__))

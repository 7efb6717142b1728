"""One cell of a sweep, from a config to an outcome: simulated here, or as a job of its own over MPI.

A cell that was interrupted is run again from its start, not resumed: replies that were on their way are gone after a resume,
and the wall seconds would be those of two jobs. So a sweep that was interrupted comes to the same figures, to the last digit.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

from rich.console import Console

from gcdl.analysis.sweeps.outcome import Outcome
from gcdl.config import Config, parse
from gcdl.errors import GcdlError, Interrupted
from gcdl.training.display import Display
from gcdl.training.run_files import CONFIG, STEPS, TIMELINE
from gcdl.training.run_reader import read_run
from gcdl.training.starting_point import StartingPoint
from gcdl.training.watcher import Watcher

Transport = Literal["simulated", "mpi"]


def run_cell(config_toml: str, folder: Path, transport: Transport, *, keep_runs: bool) -> Outcome:
    """Run a cell from its start, whatever ``folder`` holds; write and return what it came to.

    A run that fails is an outcome too. ``keep_runs``: leave all files of the run, not only what the figures were made of.

    Raises
    ------
    Interrupted : by the user; the cell is not over.
    """
    config = parse(config_toml)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        if transport == "mpi":
            _measure(config, folder)
        else:
            _simulate(config, folder)
        outcome = Outcome.of(read_run(folder))
        if transport == "simulated":
            outcome = Outcome(outcome.status, outcome.message, {**outcome.figures, "wall_seconds": None}, outcome.curve)
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted("interrupted") from None
    except GcdlError as error:
        outcome = Outcome("failed", str(error))
        folder.mkdir(exist_ok=True)
        if not (folder / CONFIG).exists():  # it failed before it began
            (folder / CONFIG).write_text(config_toml, encoding="utf-8")
    outcome.write(folder)
    if not keep_runs:
        for name in (TIMELINE, STEPS):
            with suppress(FileNotFoundError):
                (folder / name).unlink()
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return outcome


def _simulate(config: Config, folder: Path) -> None:
    from gcdl.training.roles import simulate

    simulate(StartingPoint(config, folder), Watcher())  # it shows nothing: the sweep shows its own progress


def _measure(config: Config, folder: Path) -> None:
    from gcdl.launch.supervisor import launch

    shown = io.StringIO()
    with tempfile.TemporaryDirectory(prefix="gcdl-cell-") as scratch:
        given = Path(scratch) / "config.toml"
        given.write_text(config.toml(), encoding="utf-8")
        with Display(Console(file=shown, width=1000), folder.name) as display:
            code = launch(config, [str(given)], folder, display)
    if code == Interrupted.exit_code:
        raise Interrupted("interrupted")
    if code:
        said = [line.removeprefix("gcdl: ") for line in shown.getvalue().splitlines() if line.startswith("gcdl: ")]
        raise GcdlError(said[-1] if said else f"the job ended with exit code {code}")

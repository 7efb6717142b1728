"""Commands that train: ``gcdl run``, ``gcdl simulate``, ``gcdl resume``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gcdl.cli.options import ConfigOrScript, ConfigPath, Hostfile, Out, Overrides, RunPath, run_folder
from gcdl.cli.run_script import resume_script, run_script
from gcdl.config import Config, Experiment, load
from gcdl.launch.mpirun import allotted
from gcdl.launch.supervisor import launch
from gcdl.training.display import Display
from gcdl.training.run_folder import check_unused
from gcdl.training.shown import Shown
from gcdl.training.starting_point import StartingPoint
from gcdl.training.starting_point import resume as find_start


def run(
    config: ConfigOrScript,
    overrides: Overrides = None,
    out: Out = None,
    hostfile: Hostfile = None,
    workers: Annotated[
        int | None,
        typer.Option("-n", "--workers", metavar="N", min=1, help="Of a script: how many workers.", show_default=False),
    ] = None,
) -> None:
    """Start the ranks, with the MPI in the environment, and train: here, in a Slurm allocation, or on the hosts of a file.

    gcdl run CONFIG [KEY=VALUE]... trains what a config describes. gcdl run SCRIPT.py -n 4 [-- ARGS ...] runs a script that has
    a gcdl.Trainer; keys of its [run] table can be set here (run.spares=1).
    """
    folder = run_folder(out, config)
    if config.suffix == ".py":
        run_script(config, overrides or [], folder, out is not None, hostfile, workers)
    if workers is not None:
        overrides = [*(overrides or []), f"workers={workers}"]
    checked = checked_config(config, overrides or [])
    check_unused(folder)
    with Display(Console(), config.stem) as display:
        code = launch(checked, [str(config), *(overrides or [])], folder, display, hostfile)
    raise typer.Exit(code)


def simulate(
    config: ConfigPath,
    overrides: Overrides = None,
    out: Out = None,
    timing_only: Annotated[
        bool, typer.Option("--timing-only", help="Only the clock runs: no gradients, for any number of parameters.")
    ] = False,
) -> None:
    """Run the same master and workers in one process, on a virtual clock."""
    folder = run_folder(out, config)
    start = StartingPoint(load(config, overrides or []), folder, timing_only=timing_only)
    with Display(Console(), config.stem) as display:
        _simulate(start, display)


def resume(folder: RunPath, overrides: Overrides = None, hostfile: Hostfile = None) -> None:
    """Go on with a run that ended early, in its folder: from its newest good checkpoint to the same model, to the bit."""
    start = find_start(folder, overrides or [])
    if start.past is not None and start.past.script is not None:
        resume_script(start, start.past.script, overrides or [], hostfile)
    with Display(Console(), folder.name) as display:
        if start.past is not None and start.past.simulated:
            _simulate(start, display)
            return
        if start.past is not None and start.config.workers is None and not allotted(start.config, hostfile):
            start = start.for_workers(start.past.workers)
        code = launch(start.config, [*(overrides or []), "--resume"], folder, display, hostfile)
    raise typer.Exit(code)


def checked_config(config: Path, overrides: list[str]) -> Config:
    """Read a config, and find what is wrong with it as far as that needs no data."""
    checked = load(config, overrides)
    if checked.workers is not None:
        Experiment.of(checked, checked.workers).check()
    return checked


def _simulate(start: StartingPoint, display: Display) -> None:
    from gcdl.training.roles import simulate as simulate_run

    summary = simulate_run(start, Shown(display))
    display.report(summary.fields(), start.out)

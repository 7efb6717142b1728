"""Scripts in place of configs: ``gcdl run SCRIPT.py``, and ``gcdl resume`` of a run that a script has made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console

from gcdl.config import Config, RunOptions, SimulateOptions, nested
from gcdl.config.schema import validate
from gcdl.errors import UsageError
from gcdl.launch.mpirun import allotted
from gcdl.launch.supervisor import Script, launch
from gcdl.training.display import Display
from gcdl.training.run_folder import check_unused
from gcdl.training.starting_point import StartingPoint


def run_script(
    path: Path, words: list[str], folder: Path, chosen: bool, hostfile: Path | None, workers: int | None
) -> NoReturn:
    """Start a script's ranks. Of ``words``, those that set keys of [run] are for gcdl, the others for the script."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    keys = [word for word in words if word.startswith("run.") and "=" in word]
    if workers is None and hostfile is None and "SLURM_NTASKS" not in os.environ:
        raise UsageError(f"gcdl run {path}: say how many workers to start: -n 4")
    if chosen:
        check_unused(folder)
    command = [str(path), *(word for word in words if word not in keys)]
    _launch_script(Script(command, chosen, _as_options(keys)), keys, folder, hostfile, workers, [])


def resume_script(start: StartingPoint, command: list[str], overrides: list[str], hostfile: Path | None) -> NoReturn:
    """Go on with a script's run: the script is run again, and its first fit() goes on in the folder."""
    if not Path(command[0]).is_file():
        raise UsageError(f"{start.out}: made by the script {command[0]}, which is not there any more")
    others = [word for word in overrides if not word.startswith("run.")]
    if others:
        raise UsageError(f"{others[0]}: the script says it; of a script's run, keys of [run] can be set here")
    if start.past is not None and start.past.simulated:
        options = ["--out", str(start.out), "--resume", *_as_options(overrides)]
        ended = subprocess.run([sys.executable, "-m", "gcdl", "script", *options, "--", *command], check=False)
        raise typer.Exit(ended.returncode)
    script = Script(command, True, _as_options(overrides))
    workers = None if start.past is None or allotted(start.config, hostfile) else start.past.workers
    _launch_script(script, overrides, start.out, hostfile, workers, ["--resume"], start.config.run)


def _launch_script(
    script: Script,
    keys: list[str],
    folder: Path,
    hostfile: Path | None,
    workers: int | None,
    arguments: list[str],
    made: RunOptions | None = None,
) -> NoReturn:
    """Launch a script's ranks; ``made``: what [run] of a run that is resumed says."""
    given = validate(RunOptions, nested(keys).get("run", {}), "run")
    run = given if made is None else made.model_copy(update=given.model_dump(exclude_unset=True))
    if run.masters == 0:
        raise UsageError("run.masters: 0: for a script say how many (run.masters=1)")
    config = Config(0, workers, 1, run, SimulateOptions(), {})
    with Display(Console(), Path(script.command[0]).stem) as display:
        code = launch(config, arguments, folder, display, hostfile, script)
    raise typer.Exit(code)


def _as_options(keys: list[str]) -> list[str]:
    return [word for key in keys for word in ("--run", key)]

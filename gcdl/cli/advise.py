"""``gcdl advise``: what stragglers and links cost a run, and what to do about it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from gcdl.cli.options import Hostfile, Overrides, run_folder
from gcdl.cli.run import checked_config
from gcdl.errors import UsageError

_SILENT_SECONDS = 2.0
"""A search shorter than that shows no progress."""


class _Meanwhile:
    """Shows how far something is that takes long: a bar on a terminal, a line elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._console = Console(stderr=True)
        self._began = time.monotonic()
        self._bar: Progress | None = None
        self._told = False

    def __enter__(self) -> _Meanwhile:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Show it."""
        if time.monotonic() < self._began + _SILENT_SECONDS:
            return
        if self._console.is_terminal:
            if self._bar is None:
                self._bar = Progress(console=self._console, transient=True)
                self._bar.add_task(self._what)
                self._bar.start()
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        elif not self._told:
            self._told = True
            print(f"gcdl: {self._what}: {done} of {total}", file=sys.stderr, flush=True)


def advise(
    run: Annotated[
        Path, typer.Argument(metavar="RUN|CONFIG", help="A run folder, or a config to make a short run of.", show_default=False)
    ],
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the recommended config, whole.", show_default=False)
    ] = None,
    seconds: Annotated[float, typer.Option(metavar="S", min=1.0, help="Of a config: how long to run it at most.")] = 60.0,
    target_loss: Annotated[
        float | None,
        typer.Option(metavar="X", help="Weigh noise too: by the seconds to this training loss, simulated.", show_default=False),
    ] = None,
    hostfile: Hostfile = None,
) -> None:
    """Say where a run's time went, who is slow, what other configs would do, and which one to take.

    gcdl advise RUN looks at a run folder. gcdl advise CONFIG [KEY=VALUE]... first makes a short run, uncoded and in float32,
    where gcdl run would make it.
    """
    from gcdl.analysis.advise.advice import advise as advise_on
    from gcdl.analysis.advise.as_json import as_json as plain
    from gcdl.analysis.advise.pilot import pilot
    from gcdl.analysis.advise.screen import screen

    if write is not None and write.exists():
        raise UsageError(f"--write {write}: is there already; name another file, or remove it")
    wanted = checked_config(run, overrides or []) if run.is_file() else None
    folder = run
    if wanted is not None:
        folder = run_folder(None, Path(f"pilot-{run.stem}.toml"))
        with _Meanwhile("pilot run") as watching:
            pilot(wanted, folder, seconds, hostfile, watching)
    elif overrides:
        raise UsageError(f"{overrides[0]}: overrides go with a config; {run} is a run folder")
    with _Meanwhile("trying configs") as trying:
        advice = advise_on(folder, trying, wanted=wanted, target_loss=target_loss)
    if write is not None:
        if advice.made_by_a_script:
            raise UsageError(
                f"--write {write}: a script made this run; give its gcdl.Trainer what is recommended (without --write)"
            )
        try:
            write.write_text(advice.recommendation.best.candidate.resolved, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--write {write}: cannot be written: {error.strerror or error}") from None
    print(json.dumps(plain(advice), indent=2) if as_json else screen(advice))

"""Commands that look at runs, sweeps and codes: ``replay``, ``trace``, ``plot``, ``sweep``, ``code``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from gcdl.cli.options import Only, OptionalConfig, Overrides, RunPath
from gcdl.config import Experiment, load
from gcdl.errors import UsageError


def replay(run: RunPath) -> None:
    """Run a finished run again in one process, from the arrived sets it recorded, and compare: step by step, to the bit."""
    from gcdl.analysis.replay import replay as replay_run

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("replaying", total=None)
        result = replay_run(run, lambda done, total: progress.update(bar, completed=done, total=total))
    Console().print(Text(result), soft_wrap=True)


def trace(
    run: RunPath,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the trace: .csv or .npz.", show_default=False)] = None,
) -> None:
    """Turn a run's reply times into a trace that stragglers.kind=trace replays, and fit delay models to them."""
    from gcdl.analysis.reply_times import report

    Console().print(Text(report(run, out)), soft_wrap=True)


def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or a sweep's.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A .png or .svg; plot.png and plot.svg when left out.", show_default=False),
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="A report of the runs, as one HTML file.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Event files for TensorBoard instead.")] = False,
    only: Only = None,
) -> None:
    """Draw a run: who was used and who was late, beside its loss. Or compare several. Or a sweep: mean and spread."""
    if html:
        from gcdl.analysis.html_report import report

        _say(f"written: {report(runs, out)}")
    elif tensorboard:
        from gcdl.analysis.tensorboard_export import export

        for run in runs:
            _say(f"written: {export(run)}")
    else:
        for file in _draw(runs, out, only or []):
            _say(f"drawn: {file}")


def sweep(
    suite: Annotated[Path, typer.Argument(metavar="SUITE", help="A TOML file; see configs/README.md.", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The sweep's folder; runs/NAME when left out.", show_default=False)
    ] = None,
    only: Only = None,
    jobs: Annotated[int, typer.Option(min=1, help="Cells that are simulated at a time.")] = 1,
    retry: Annotated[bool, typer.Option("--retry", help="Run cells that failed again.")] = False,
) -> None:
    """Run a grid of methods, delays, learning rates and seeds, and tune the rates. Interrupted, the same command goes on."""
    from gcdl.analysis.sweeps.display import SweepDisplay
    from gcdl.analysis.sweeps.runner import cells_expected, plan
    from gcdl.analysis.sweeps.runner import sweep as run_sweep
    from gcdl.analysis.sweeps.suite import load_suite

    folder = out if out is not None else Path("runs") / suite.stem
    checked = load_suite(suite, overrides or [])
    combinations = plan(checked, only or [])
    with SweepDisplay(Console(), cells_expected(checked, combinations)) as display:
        results = run_sweep(checked, folder, combinations, display.cell, jobs=jobs, retry=retry)
    display.report(results, combinations, folder)


def code(
    config: OptionalConfig = None,
    overrides: Overrides = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="A table of all codes for given sizes: --compare n=12 stragglers=2 [k=12]")
    ] = False,
    figure: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw B and its health, e.g. as PNG.")] = None,
) -> None:
    """Show a config's code: who holds what, and what decoding costs. Or compare all codes for given sizes."""
    from gcdl.analysis import code_report

    given = overrides or []
    if compare:
        sizes = _sizes([str(config), *given] if config is not None else given)
        if figure is not None:
            raise UsageError("--figure draws one code: name a config instead of --compare")
        code_report.compare(Console(), sizes["n"], sizes.get("k", sizes["n"]), sizes["stragglers"], sizes.get("seed", 0))
        return
    if config is None:
        raise UsageError("gcdl code: name a config, or --compare n=12 stragglers=2")
    checked = load(config, given)
    if checked.workers is None:
        raise UsageError("workers: missing; a code needs the number of workers (workers = 8)")
    experiment = Experiment.of(checked, checked.workers).check()
    code_report.show(Console(), experiment)
    if figure is not None:
        code_report.figure(figure, experiment)
        _say(f"drawn: {figure}")


def _draw(runs: Sequence[Path], out: Path | None, only: Sequence[str]) -> list[Path]:
    """Draw runs, or a sweep; return the files."""
    from gcdl.analysis.plots import plot as plot_runs
    from gcdl.analysis.sweeps.plots import is_sweep, plot_sweep

    if len(runs) == 1 and is_sweep(runs[0]):
        return plot_sweep(runs[0], out, only)
    if only:
        raise UsageError("--only: chooses a part of a sweep; name the folder of one")
    return plot_runs(runs, out)


def _sizes(given: list[str]) -> dict[str, int]:
    """Read n=12 stragglers=2 [k=12] [seed=0]."""
    sizes: dict[str, int] = {}
    for word in given:
        key, _, value = word.partition("=")
        if key not in ("n", "k", "stragglers", "seed") or not value.isdecimal():
            raise UsageError(f"gcdl code --compare: {word!r}: takes n=12 stragglers=2, and k=12, seed=0 if you like")
        sizes[key] = int(value)
    if "n" not in sizes or "stragglers" not in sizes:
        raise UsageError("gcdl code --compare: needs n and stragglers, e.g. n=12 stragglers=2")
    if sizes["n"] < 1 or sizes.get("k", 1) < 1 or sizes["stragglers"] >= sizes["n"]:
        raise UsageError("gcdl code --compare: n and k must be at least 1, stragglers below n")
    return sizes


def _say(line: str) -> None:
    Console().print(line, highlight=False, markup=False, soft_wrap=True)

"""``gcdl code``: who holds which shards and what decoding costs, as tables, or as a figure (``--figure``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gcdl.analysis.figure import whole_numbers
from gcdl.codes import CODES
from gcdl.codes.health import Survey, survey
from gcdl.config import Experiment
from gcdl.errors import ConfigError, UsageError
from gcdl.host.installation import pip_install
from gcdl.training.run_warnings import AMPLIFICATION_BOUND, code_of, noise_warning
from gcdl.types import Stream, rng_for

_ROWS, _COLUMNS = 40, 60
_EXACT = 1e-9
_COSTS = ("sets", "worst\nerror", "mean\nerror", "worst\ngain", "mean\ngain", "noise")
_LEGEND = (
    "sets of missing workers that were looked at; error: ||a B - 1||; gain: ||a||; noise: compression noise in the decoded "
    "gradient, in the worst set, relative to the uncoded scheme that waits for all; +-: standard error over sampled sets"
)


def show(console: Console, experiment: Experiment) -> None:
    """Print the assignment, the loads, and what decoding costs for up to one straggler more than planned."""
    code, choice = experiment.code, experiment.config.choices["code"]
    assignment = code.B != 0.0
    console.print(f"[bold]{choice.kind}[/]: n = {code.n} workers, k = {code.k} shards, s = {code.stragglers}", highlight=False)
    console.print(f"shards per worker: {_counts(assignment.sum(axis=1))}; workers per shard: {_counts(assignment.sum(axis=0))}")
    for line in _picture(assignment):
        console.print(line)
    table = _table("what decoding costs")
    for column in ("missing", *_COSTS):
        table.add_column(column, justify="right")
    for lost in range(min(code.stragglers + 2, code.n)):
        health = survey(code, lost, rng_for(experiment.config.seed, Stream.CODE, 1))
        which = " = s + 1" if lost > code.stragglers else " = s" if lost == code.stragglers else ""
        table.add_row(f"{lost}{which}", *_cells(health))
    console.print(table)
    console.print(_LEGEND, style="dim")
    warning = noise_warning(experiment)
    if warning is not None:
        console.print(Text(f"warning: {warning}", style="yellow"))


def compare(console: Console, n: int, k: int, stragglers: int, seed: int) -> None:
    """Print a table of all kinds of codes for these sizes; for those that do not exist, why."""
    table = _table(f"codes for n = {n}, k = {k}, s = {stragglers}")
    table.add_column("code", no_wrap=True)
    for column in ("load", *_COSTS):
        table.add_column(column, justify="right")
    missing = []
    for kind in CODES:
        try:
            code = code_of(kind, n, k, stragglers, seed)
        except ConfigError as error:
            missing.append((kind, str(error)))
            continue
        health = survey(code, min(stragglers, n - 1), rng_for(seed, Stream.CODE, 1))
        style = "yellow" if health.worst_amplification > AMPLIFICATION_BOUND else None
        table.add_row(kind, _counts((code.B != 0.0).sum(axis=1)), *_cells(health), style=style)
    console.print(table)
    console.print(f"load: shards per worker; {_LEGEND}", style="dim")
    for kind, why in missing:
        console.print(Text(f"no {kind}: {why.removeprefix('code: ')}", style="dim"), soft_wrap=True)


def figure(path: Path, experiment: Experiment) -> None:
    """Draw B as a picture, and the noise gain and decoding error against the number of missing workers.

    Raises
    ------
    UsageError : matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(f"--figure needs matplotlib: {pip_install('plots')}") from None
    code = experiment.code
    drawing = Figure(figsize=(12.5, 4.5), layout="constrained")
    left, right = drawing.subplots(1, 2)
    extent = float(np.abs(code.B).max())
    shown = left.imshow(code.B, cmap="PuOr", vmin=-extent, vmax=extent, aspect="auto", interpolation="nearest")
    left.set(xlabel="shard", ylabel="worker", title=f"{experiment.config.choices['code'].kind}: n = {code.n}, k = {code.k}")
    whole_numbers(left.xaxis, left.yaxis)
    drawing.colorbar(shown, ax=left, label="coefficient in B (0: the worker does not hold the shard)")
    lost = range(min(code.stragglers + 3, code.n))
    surveys = [survey(code, count, rng_for(experiment.config.seed, Stream.CODE, 1)) for count in lost]
    right.plot(lost, [health.worst_error for health in surveys], "o-", color="#d55e00", label="decoding error, worst set")
    right.plot(lost, [health.mean_error for health in surveys], "o--", color="#d55e00", label="decoding error, mean")
    right.plot(lost, [health.worst_gain for health in surveys], "s-", color="#0072b2", label="noise gain, worst set")
    right.plot(lost, [health.mean_gain for health in surveys], "s--", color="#0072b2", label="noise gain, mean")
    right.axvline(code.stragglers, color="0.6", linestyle=":", label=f"planned: s = {code.stragglers}")
    right.set(
        xlabel="missing workers",
        ylabel="||a B - 1||, and ||a||",
        title="what decoding costs",
        xticks=list(lost),
        ylim=(0.0, None),
    )
    drawing.legend(loc="outside right upper", frameon=False)
    try:
        drawing.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UsageError(f"--figure {path}: {error}") from None


def _table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)


def _cells(health: Survey) -> list[str]:
    error = "exact" if health.worst_error < _EXACT else f"{health.worst_error:.3g}"
    mean_error = "exact" if health.worst_error < _EXACT else _with(health.mean_error, health.error_standard_error)
    return [
        f"{health.patterns}{'' if health.exhaustive else ' drawn'}",
        error,
        mean_error,
        f"{health.worst_gain:.3g}",
        _with(health.mean_gain, health.gain_standard_error),
        f"{health.worst_amplification:.3g}",
    ]


def _with(value: float, standard_error: float) -> str:
    return f"{value:.3g} +- {standard_error:.1g}" if standard_error > 0.0 else f"{value:.3g}"


def _counts(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low}-{high}"


def _picture(assignment: np.ndarray) -> Iterator[Text]:
    """Yield the assignment as lines: a worker a line, a filled square where it holds the shard."""
    rows, columns = assignment.shape
    for worker in range(min(rows, _ROWS)):
        line = Text(f"worker {worker:>4}  ")
        for shard in range(min(columns, _COLUMNS)):
            line.append("■ " if assignment[worker, shard] else "· ", "green" if assignment[worker, shard] else "dim")
        yield line.append("..." if columns > _COLUMNS else "")
    if rows > _ROWS:
        yield Text(f"... and {rows - _ROWS} more workers")

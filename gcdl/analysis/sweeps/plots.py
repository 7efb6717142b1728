"""``gcdl plot`` of a sweep: for each group a row, the methods at their chosen rates, mean and spread over the seeds.

Simulated: test loss against steps, payload bits and seconds; at most five methods in colour, the others grey. One group alone
is drawn as a column, for narrow screens. Measured (``transport = "mpi"``): the seconds of whole jobs.
Text stays text in an SVG, and nothing in it depends on when it was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from gcdl.analysis.figure import STYLES, figure_files, saved
from gcdl.analysis.sweeps.outcome import Outcome
from gcdl.analysis.sweeps.results import SUITE, Results
from gcdl.analysis.sweeps.runner import plan
from gcdl.analysis.sweeps.suite import Combination, parse_suite
from gcdl.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = {"steps": "step", "payload_bits": "payload bits sent up", "seconds": "seconds of steps"}


def is_sweep(path: Path) -> bool:
    """Say whether a folder is a sweep's."""
    return (path / SUITE).is_file()


def plot_sweep(path: Path, out: Path | None, only: Sequence[str] = ()) -> list[Path]:
    """Draw a sweep, or the part of it that ``only`` (AXIS=VALUE) names; return the files written.

    ``out``: a .png or .svg file; left out: ``plot.png`` and ``plot.svg``, in the sweep's folder.

    Raises
    ------
    UsageError : matplotlib is not installed, a file cannot be written, or there is no such axis.
    DataError : no cell is over.
    """
    files = figure_files(out, path / "plot")
    try:
        text = (path / SUITE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path / SUITE}: cannot be read: {error}") from None
    suite = parse_suite(text, name=str(path / SUITE))
    results = Results.read(suite, path)
    wanted = {combination.place for combination in plan(suite, only)}
    groups = []
    for title, combinations in results.groups():
        shown = [one for one in combinations if one.place in wanted and results.at_chosen(one, suite.tune[0])]
        if shown:
            groups.append((title, shown))
    if not groups:
        raise DataError(f"{path}: no cell of this is over; gcdl sweep runs them")
    return saved(files, lambda figure: _draw(figure, results, groups))


def _draw(figure: Figure, results: Results, groups: Sequence[tuple[str, Sequence[Combination]]]) -> None:
    if results.suite.transport == "mpi":
        figure.set_size_inches(10.0, 1.5 + 0.16 * sum(len(shown) + 1 for _, shown in groups))
        _jobs(figure, results, groups)
        return
    if len(groups) == 1:
        figure.set_size_inches(5.2, 8.6)
        figure.suptitle(groups[0][0], fontsize="medium")
        panels = figure.subplots(len(_PANELS), 1, squeeze=False, sharey=True).T
    else:
        figure.set_size_inches(12.0, 1.2 + 3.2 * len(groups))
        panels = figure.subplots(len(groups), len(_PANELS), squeeze=False, sharey="row")
    styles = dict(zip(results.suite.highlight, STYLES, strict=False))
    for row, (title, shown) in zip(panels, groups, strict=True):
        _curves(row, results, shown, styles)
        for axes in row if len(groups) == 1 else row[:1]:
            axes.set(ylabel=f"{title}\ntest loss" if title and len(groups) > 1 else "test loss")
    others = dict.fromkeys(one.place[-1] for _, shown in groups for one in shown if one.place[-1] not in styles)
    _legend(figure, panels, list(others), results.suite.tune_seeds, columns=1 if len(groups) == 1 else 3)


def _legend(figure: Figure, panels: Any, others: Sequence[str], seeds: int, columns: int) -> None:
    """Name the lines in colour; say what is grey, what a band is, and what the level line is."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: dict[str, Any] = {}
    for row in panels:
        handles |= {label: handle for handle, label in zip(*row[0].get_legend_handles_labels(), strict=True)}
    if others:
        handles[fill(f"also run: {', '.join(others)}", 62)] = Line2D([], [], color=_GREY, linewidth=_THIN)
    if seeds > 1:
        handles[f"lowest to highest of {seeds} seeds; the line is their mean"] = Patch(color="#888888", alpha=0.3, linewidth=0)
    figure.legend(list(handles.values()), list(handles), loc="outside lower left", ncols=columns, frameon=False)


_GREY, _THIN = "#a8a8a8", 0.8
"""Of the methods that are not highlighted."""
_DECADES = 1.9  # that have room for more numbers than powers of ten


def _curves(row: Sequence[Axes], results: Results, shown: Sequence[Combination], styles: Any) -> None:
    """Draw a group: the mean over the seeds, and a band from the lowest to the highest."""
    lowest, highest = np.inf, 0.0
    for one in shown:
        outcomes = [outcome for outcome in results.at_chosen(one, results.suite.tune[0]) if outcome.status == "done"]
        loss = _together(outcomes, "test_loss")
        if not np.isfinite(loss).any():
            continue
        lowest, highest = min(lowest, np.nanmin(loss)), max(highest, np.nanmax(loss[:, 0]))
        name = one.place[-1]
        for axes, panel in zip(row, _PANELS, strict=True):
            x = _together(outcomes, panel).mean(axis=0)
            if name not in styles:
                axes.plot(x, loss.mean(axis=0), color=_GREY, linewidth=_THIN, zorder=1.5)
                continue
            colour, dashes = styles[name]
            axes.plot(x, loss.mean(axis=0), color=colour, linestyle=dashes, linewidth=1.5, label=name)
            axes.fill_between(x, loss.min(axis=0), loss.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    _scales(row, lowest, highest)
    if shown[0].target is not None:
        _target(row, shown[0].target)


def _target(row: Sequence[Axes], loss: float) -> None:
    """Draw the loss that is to be reached."""
    for axes in row:
        axes.axhline(loss, color="#555555", linewidth=0.8, linestyle=(0, (2, 2)))
        axes.annotate(
            f"target {loss:g}", (1.0, loss), xycoords=("axes fraction", "data"), xytext=(-3, 2),
            textcoords="offset points", ha="right", fontsize="small", color="#555555",
        )  # fmt: skip


def _scales(row: Sequence[Axes], lowest: float, highest: float) -> None:
    """Give the panels logarithmic axes, but for steps, with numbers that can be read."""
    from matplotlib.ticker import EngFormatter, FormatStrFormatter, LogLocator, NullFormatter

    for axes, (name, label) in zip(row, _PANELS.items(), strict=True):
        axes.set(xlabel=label, yscale="log", xscale="linear" if name == "steps" else "log")
        if lowest < highest:
            axes.set_ylim(lowest * 0.95, highest * 1.1)
        for axis in (axes.yaxis,) if name == "steps" else (axes.xaxis, axes.yaxis):
            wide = axis is axes.xaxis and np.log10(np.divide(*axis.get_view_interval()[::-1])) > _DECADES
            axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
            axis.set_major_formatter(EngFormatter() if axis is axes.xaxis else FormatStrFormatter("%g"))
            axis.set_minor_formatter(NullFormatter())


def _together(outcomes: Sequence[Outcome], name: str) -> Any:
    """Return a curve of all seeds, (seeds, evaluations), up to the last evaluation that all of them reached."""
    curves = [[np.nan if value is None else value for value in outcome.curve[name]] for outcome in outcomes]
    length = min((len(curve) for curve in curves), default=0)
    return np.array([curve[:length] for curve in curves], dtype=np.float64).reshape(len(curves), length)


def _jobs(figure: Figure, results: Results, groups: Sequence[tuple[str, Sequence[Combination]]]) -> None:
    """Draw the seconds of jobs: a line a method, grouped; a mark a seed and a bar at the mean."""
    axes = figure.subplots()
    styles = dict(zip(list(results.suite.axes.values())[-1], cycle(STYLES), strict=False))
    ticks, names, place = [], [], 0.0
    for title, shown in groups:
        ticks.append(place + (len(shown) - 1) / 2)
        names.append(title)
        for one in shown:
            outcomes = results.at_chosen(one, results.suite.tune[0])
            seconds = [value for outcome in outcomes if (value := outcome.figure("wall_seconds", None)) is not None]
            colour, _ = styles[one.place[-1]]
            label = one.place[-1] if one.place[-1] not in axes.get_legend_handles_labels()[1] else None
            axes.barh(place, np.mean(seconds) if seconds else 0.0, color=colour, alpha=0.45, height=0.85, label=label)
            axes.plot(seconds, [place] * len(seconds), "o", color=colour, markersize=3)
            place += 1.0
        place += 1.0
    axes.set(yticks=ticks, yticklabels=names, xlabel="seconds of the job, start-up and shutdown included", xlim=(0.0, None))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)

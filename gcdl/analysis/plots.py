"""``gcdl plot``: one run, who was used and who was late beside its loss; or several, compared. PNG and SVG.

The first colours are Okabe and Ito's, which colour-blind people tell apart; line styles and marks say the same again, for
print in grey.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gcdl.config import Experiment
from gcdl.errors import DataError, UsageError
from gcdl.host.installation import pip_install
from gcdl.stragglers import delays_at
from gcdl.training.run_reader import History, read_run
from gcdl.types import Matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

STYLES = (
    ("#0072b2", "-"), ("#d55e00", "--"), ("#009e73", "-."), ("#cc79a7", ":"),
    ("#e69f00", (0, (6, 1, 1, 1, 1, 1))), ("#56b4e9", (0, (8, 2))), ("#000000", (0, (1, 3))),
    ("#7f3c8d", (0, (4, 1))), ("#8c6d31", (0, (3, 1, 1, 1))), ("#999999", "-"),
    ("#a50026", (0, (5, 1, 1, 1))), ("#1a9850", (0, (2, 1))),
)  # fmt: skip
"""Colour and dashes of each run, in turn."""
_MARKS = ("D", "o", "s", "^", "v", "P", "X")
"""What marks a run's test loss."""
_USED, _LATE, _LOST = "#0072b2", "#e69f00", "#000000"
_SMOOTH = 40
"""A loss curve is averaged over a window of its length divided by this."""
_CELLS = 200
"""Most steps, and most workers, that are drawn one by one; more are averaged."""
_POINTS = 20_000
"""About how many replies are drawn; of more, every m-th."""


def plot(paths: Sequence[Path], out: Path | None) -> list[Path]:
    """Draw one run, or compare several; return the files written.

    ``out``: a .png or .svg file; left out: ``plot.png`` and ``plot.svg``, in the run's folder, or here for several.

    Raises
    ------
    UsageError : matplotlib is not installed, or a file cannot be written.
    DataError : not a run folder, or one without steps.
    """
    files = figure_files(out, paths[0] / "plot" if len(paths) == 1 else Path("plot"))
    runs = [read_run(path) for path in paths]
    for run in runs:
        if not run.steps:
            raise DataError(f"{run.path}: no step was recorded")
    return saved(files, lambda figure: _one(figure, runs[0]) if len(runs) == 1 else _several(figure, runs))


def figure_files(out: Path | None, base: Path) -> list[Path]:
    """Return the files to write: ``out``, or ``base`` as PNG and SVG.

    Raises
    ------
    UsageError : ``out`` is neither.
    """
    if out is None:
        return [base.with_suffix(".png"), base.with_suffix(".svg")]
    if out.suffix not in (".png", ".svg"):
        raise UsageError(f"--out {out}: must end in .png or .svg")
    return [out]


def saved(files: Sequence[Path], draw: Callable[[Figure], None]) -> list[Path]:
    """Draw a figure into these files; return them.

    Raises
    ------
    UsageError : matplotlib is not installed, or a file cannot be written.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from PIL import Image  # matplotlib needs it too
    except ImportError:
        raise UsageError(f"gcdl plot needs matplotlib: {pip_install('plots')}") from None
    # Text stays text in the SVG, and no date or random id goes into it: the same runs give the same file.
    with rc_context({"font.size": 9.0, "svg.fonttype": "none", "svg.hashsalt": "gcdl", "axes.grid": True, "grid.alpha": 0.25}):
        figure = Figure(figsize=(12.0, 7.5), layout="constrained")
        draw(figure)
        for file in files:
            try:
                if file.suffix == ".svg":
                    figure.savefig(file, metadata={"Date": None})
                else:
                    drawn = BytesIO()
                    figure.savefig(drawn, dpi=150)
                    # 256 colours show the same picture in less than half the bytes.
                    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
            except OSError as error:
                raise UsageError(f"--out {file}: cannot be written: {error.strerror or error}") from None
    return list(files)


def _one(figure: Figure, run: History) -> None:
    """Who was used and who was late, when replies came, and the loss against steps, seconds and bytes."""
    figure.suptitle(_title(run))
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.15, 1.0))[:, 0]
    who, when = top.subplots(1, 2)
    _who(who, run)
    _when(when, run)
    panels = bottom.subplots(1, 3, sharey=True)
    _losses(panels, [run], ["training loss"])
    _legend(bottom, panels[0])


def _several(figure: Figure, runs: Sequence[History]) -> None:
    """Loss against steps, seconds and bytes; the delays each met, and the seconds of its steps."""
    names = _names(runs)
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.1, 1.0))[:, 0]
    panels = top.subplots(1, 3, sharey=True)
    _losses(panels, runs, names)
    _legend(top, panels[0])
    delays, seconds = bottom.subplots(1, 2)
    _delays(delays, runs, names)
    _seconds(seconds, runs, names)


def _who(axes: Axes, run: History) -> None:
    """Draw a column for each step and a row for each worker: used, late, or lost."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    state = np.ones((len(run.steps), run.workers))
    for row, line in zip(state, run.steps, strict=True):
        row[line["replies"]] = 0.0
        row[line["lost"]] = 2.0
    shown = _binned(_binned((state == 1.0).astype(np.float64), _CELLS).T, _CELLS)
    lost = _binned(_binned((state == 2.0).astype(np.float64), _CELLS).T, _CELLS)
    extent = (-0.5, len(run.steps) - 0.5, run.workers - 0.5, -0.5)
    grades = ListedColormap(_between(_USED, _LATE), name="late")
    axes.imshow(shown, cmap=grades, vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest", extent=extent)
    if lost.any():
        axes.imshow(
            np.where(lost > 0.5, 1.0, np.nan),
            cmap=ListedColormap([_LOST]),
            aspect="auto",
            interpolation="nearest",
            extent=extent,
        )
    share = float((state == 0.0).mean())
    handles = [Patch(color=_USED, label=f"used ({share:.0%})"), Patch(color=_LATE, label="late: not used")]
    if lost.any():
        handles.append(Patch(color=_LOST, label="lost"))
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False)
    axes.grid(visible=False)
    axes.set(xlabel="step", ylabel="worker")
    _whole(axes)


def _when(axes: Axes, run: History) -> None:
    """When the replies that were used came, and when the step ended."""
    seconds = run.by_worker("reply_seconds")
    steps = np.arange(len(run.steps))
    at = np.repeat(steps[:, None], run.workers, axis=1)[np.isfinite(seconds)]
    seen = seconds[np.isfinite(seconds)]
    every = -(-seen.size // _POINTS)
    size = 14.0 if seen.size < 2000 else 3.0
    axes.scatter(
        at[::every], seen[::every], s=size, color=_USED, linewidths=0, alpha=0.6,
        label="a reply that was used" if every == 1 else f"a reply that was used (every {every}th)",
    )  # fmt: skip
    length = np.array([line["seconds"] for line in run.steps], dtype=float)
    axes.step(steps, length, where="mid", color=STYLES[1][0], linewidth=1.0, label="the step ended")
    axes.set(xlabel="step", ylabel="seconds from the step's beginning", ylim=(0.0, None))
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False, markerscale=(25.0 / size) ** 0.5)
    _whole(axes)


def _losses(panels: Sequence[Axes], runs: Sequence[History], names: Sequence[str]) -> None:
    """Training loss against steps, seconds, and bytes in both directions; test loss as marks where it was evaluated."""
    drawn = positive = False
    for run, name, (colour, dashes), mark in zip(runs, names, cycle(STYLES), cycle(_MARKS), strict=False):
        loss = _numbers(run, "train_loss")
        clock = np.cumsum(_numbers(run, "seconds"))
        sent = np.cumsum(_numbers(run, "uplink_bytes") + _numbers(run, "downlink_bytes")) / 1e6
        test = np.array([np.nan if line.get("test_loss") is None else line["test_loss"] for line in run.steps], dtype=float)
        for axes, x in zip(panels, (np.arange(1, len(loss) + 1), clock, sent), strict=True):
            if np.isfinite(loss).any():
                axes.plot(x, _smooth(loss), color=colour, linestyle=dashes, linewidth=1.6, label=name)
                drawn = True
                positive = positive or bool((loss[np.isfinite(loss)] > 0.0).any())
            judged = np.isfinite(test)
            if judged.any():
                label = _TEST if len(runs) == 1 else f"{name}, {_TEST}"
                axes.plot(x[judged], test[judged], mark, color=colour, markersize=4, markerfacecolor="white", label=label)
    for axes, label in zip(panels, ("step", "seconds of steps", "MB sent, up and down"), strict=True):
        axes.set(xlabel=label)
    panels[0].set(ylabel="loss" if len(runs) == 1 else "loss (lines: training)")
    if not drawn:
        panels[1].text(0.5, 0.5, "no losses: timing only", ha="center", transform=panels[1].transAxes)
        return
    if positive:
        panels[0].set_yscale("log")


def _legend(figure: SubFigure, axes: Axes) -> None:
    """One legend for all panels."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside upper left", ncols=6, frameon=False)


_TEST = "test loss"


def _delays(axes: Axes, runs: Sequence[History], names: Sequence[str]) -> None:
    """Draw each step's injected delay, the mean over the workers; the title says whether the runs met the same delays."""
    met = [_drawn(run) for run in runs]
    widths = np.linspace(1.0 + 1.5 * len(runs), 1.2, len(runs))  # what lies below shows at the sides
    for found, name, width, (colour, dashes) in zip(met, names, widths, cycle(STYLES), strict=False):
        mean = np.where(np.isfinite(found), found, 0.0).sum(axis=1) / np.maximum(np.isfinite(found).sum(axis=1), 1)
        axes.plot(np.arange(len(found)), mean, color=colour, linestyle=dashes, linewidth=width, label=name)
    common = min(len(found) for found in met)
    same = all(np.array_equal(found[:common], met[0][:common]) for found in met[1:])
    verdict = "the same delays, of every worker in every step" if same else "not the same delays"
    axes.set(xlabel="step", ylabel="mean injected delay (s; never: left out)", title=f"Delays met: {verdict}", ylim=(0.0, None))
    _whole(axes)


def _drawn(run: History) -> Matrix:
    """Return the (steps, n) seconds that were injected. They are drawn again: they depend on the config alone."""
    model = Experiment.of(run.config, run.workers).stragglers
    return np.array([delays_at(model, run.workers, run.config.seed, step).seconds for step in range(len(run.steps))])


def _seconds(axes: Axes, runs: Sequence[History], names: Sequence[str]) -> None:
    """Draw how long steps took: the share of steps up to each length."""
    for run, name, (colour, dashes) in zip(runs, names, cycle(STYLES), strict=False):
        length = np.sort(_numbers(run, "seconds"))
        share = np.arange(1, len(length) + 1) / len(length)
        axes.step(length, share, where="post", color=colour, linestyle=dashes, linewidth=1.6, label=name)
    axes.set(
        xlabel="seconds of a step", ylabel="share of steps that took no longer", title="How long steps took", ylim=(0.0, 1.02)
    )


def _title(run: History) -> str:
    choices = run.config.choices
    kinds = ", ".join(choices[name].kind for name in ("code", "compressor", "wait", "stragglers"))
    return f"{run.path.name}: {kinds}; {run.workers} workers, {len(run.steps)} steps"


def _names(runs: Sequence[History]) -> list[str]:
    """Return a short name of each run: its folder's, with the parent's where that is needed to tell them apart."""
    names = [run.path.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = ["/".join(run.path.resolve().parts[-2:]) for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def _numbers(run: History, key: str) -> Any:
    return np.array([np.nan if line[key] is None else line[key] for line in run.steps], dtype=np.float64)


def _smooth(values: Any) -> Any:
    """Return the mean over a trailing window, a fortieth of the run: a training loss is of a minibatch, and noisy."""
    window = max(1, len(values) // _SMOOTH)
    if window == 1 or not np.isfinite(values).all():
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _binned(table: Any, limit: int) -> Any:
    """Return (rows, columns) with rows averaged so that at most ``limit`` are left."""
    if len(table) <= limit:
        return table
    edges = np.linspace(0, len(table), limit + 1).astype(int)
    return np.array([table[first:last].mean(axis=0) for first, last in pairwise(edges)])


def _between(one: str, other: str) -> list[tuple[float, float, float]]:
    """Return 64 colours from one to another."""
    ends = [np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]) for colour in (one, other)]
    return [tuple((1 - t) * ends[0] + t * ends[1]) for t in np.linspace(0.0, 1.0, 64)]


def _whole(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))

"""The figure of one run: who was used and who was late, when replies came, the loss, and what else was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gcdl.analysis.curve_panels import draw_losses, draw_others, one_legend, other_curves
from gcdl.analysis.figure import STYLES, whole_numbers
from gcdl.analysis.series import binned, numbers
from gcdl.training.run_reader import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_USED, _LATE, _LOST = "#0072b2", "#e69f00", "#000000"
_CELLS = 200
"""Most steps, and most workers, that are drawn one by one; more are averaged."""
_POINTS = 20_000
"""About how many replies are drawn; of more, every m-th."""


def draw_run(figure: Figure, run: History) -> None:
    """Draw a run: who and when above, the loss below, accuracy and the user's own metrics in a third row."""
    figure.suptitle(_title(run))
    others = other_curves([run])
    if others:
        figure.set_size_inches(12.0, 10.0)
    rows = figure.subfigures(3 if others else 2, 1, squeeze=False, height_ratios=(1.15, 1.0, 0.8)[: 3 if others else 2])[:, 0]
    who, when = rows[0].subplots(1, 2)
    _who(who, run)
    _when(when, run)
    panels = rows[1].subplots(1, 3, sharey=True)
    draw_losses(panels, [run], [run.path.name])
    one_legend(rows[1], panels[0])
    if others:
        draw_others(rows[2], [run], [run.path.name])


def _who(axes: Axes, run: History) -> None:
    """Draw a column for each step and a row for each worker: used, late, or lost."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    state = np.ones((len(run.steps), run.workers))
    for row, line in zip(state, run.steps, strict=True):
        row[line["replies"]] = 0.0
    state[run.absent()] = 2.0
    shown = binned(binned((state == 1.0).astype(np.float64), _CELLS).T, _CELLS)
    lost = binned(binned((state == 2.0).astype(np.float64), _CELLS).T, _CELLS)
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
    whole_numbers(axes.xaxis, axes.yaxis)


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
    axes.step(steps, numbers(run, "seconds"), where="mid", color=STYLES[1][0], linewidth=1.0, label="the step ended")
    axes.set(xlabel="step", ylabel="seconds from the step's beginning", ylim=(0.0, None))
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False, markerscale=(25.0 / size) ** 0.5)
    whole_numbers(axes.xaxis)


def _title(run: History) -> str:
    choices = run.config.choices
    kinds = ", ".join(choices[name].kind for name in ("code", "compressor", "wait", "stragglers"))
    return f"{run.path.resolve().name}: {kinds}; {run.workers} workers, {len(run.steps)} steps"


def _between(one: str, other: str) -> list[tuple[float, float, float]]:
    """Return 64 colours from one to another."""
    ends = [np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]) for colour in (one, other)]
    return [tuple((1 - t) * ends[0] + t * ends[1]) for t in np.linspace(0.0, 1.0, 64)]

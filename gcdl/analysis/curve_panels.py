"""Panels of curves: the loss against steps, seconds and bytes; accuracy and the user's own metrics against steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from gcdl.analysis.figure import MARKS, STYLES, whole_numbers
from gcdl.analysis.series import metric, metric_names, numbers, trailing_mean
from gcdl.training.run_reader import History
from gcdl.types import Weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_SMOOTH = 40
"""A training loss is drawn as its mean over the last 1 / 40 of the steps: it is of minibatches, and noisy."""
_OTHERS = 6
"""Most panels beside those of the loss."""


def draw_losses(panels: Sequence[Axes], runs: Sequence[History], names: Sequence[str]) -> None:
    """Draw the training loss against steps, seconds, and bytes in both directions; the test loss as marks."""
    drawn = positive = False
    for run, name, (colour, dashes), mark in zip(runs, names, cycle(STYLES), cycle(MARKS), strict=False):
        loss, test = numbers(run, "train_loss"), numbers(run, "test_loss")
        window = max(1, len(loss) // _SMOOTH)
        over = f" (mean over the last {window} steps)" if window > 1 else ""
        for axes, x in zip(panels, _axes_of(run), strict=True):
            if np.isfinite(loss).any():
                label = f"training loss{over}" if len(runs) == 1 else f"{name}{over}"
                axes.plot(x, trailing_mean(loss, window), color=colour, linestyle=dashes, linewidth=1.6, label=label)
                drawn = True
                positive = positive or bool((loss[np.isfinite(loss)] > 0.0).any())
            judged = np.isfinite(test)
            if judged.any():
                label = "test loss" if len(runs) == 1 else f"{name}, test loss"
                axes.plot(x[judged], test[judged], mark, color=colour, markersize=4, markerfacecolor="white", label=label)
    for axes, label in zip(panels, _axes_labels(runs), strict=True):
        axes.set(xlabel=label)
    panels[0].set(ylabel="loss" if len(runs) == 1 else "loss (lines: training)")
    if not drawn:
        panels[1].text(0.5, 0.5, "no losses: timing only", ha="center", transform=panels[1].transAxes)
    elif positive:
        _logarithmic(panels[0])


def _logarithmic(axes: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers; at 2 and 5 too, where it spans little more than a decade."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    short = high < 50.0 * low
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if short else (1.0,)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def other_curves(runs: Sequence[History]) -> list[str]:
    """Return what there is to draw beside the loss: "test accuracy", and names of metrics; six at most."""
    accuracy = any(np.isfinite(numbers(run, "test_accuracy")).any() for run in runs)
    metrics = dict.fromkeys(name for run in runs for name in metric_names(run))
    return [*(["test accuracy"] if accuracy else []), *metrics][:_OTHERS]


def draw_others(row: SubFigure, runs: Sequence[History], names: Sequence[str]) -> None:
    """Draw each of :func:`other_curves` in a panel of its own, against steps; a single one against seconds and bytes too."""
    labels = other_curves(runs)
    panels = row.subplots(1, 3 if len(labels) == 1 else len(labels), squeeze=False)[0]
    for number, axes in enumerate(panels):
        label, place = (labels[0], number) if len(labels) == 1 else (labels[number], 0)
        for run, name, (colour, dashes), mark in zip(runs, names, cycle(STYLES), cycle(MARKS), strict=False):
            values = numbers(run, "test_accuracy") if label == "test accuracy" else metric(run, label)
            there = np.isfinite(values)
            few = there.sum() <= 60
            axes.plot(
                _axes_of(run)[place][there], values[there], color=colour, linestyle=dashes, linewidth=1.4,
                marker=mark if few else None, markersize=4, markerfacecolor="white", label=name,
            )  # fmt: skip
        axes.set(xlabel=_axes_labels(runs)[place], ylabel=label)
    if len(labels) > 1:
        whole_numbers(*(axes.xaxis for axes in panels))


def _axes_of(run: History) -> tuple[Weights, Weights, Weights]:
    """Return what curves are drawn against: steps done, seconds, and megabytes in both directions."""
    sent = numbers(run, "uplink_bytes") + numbers(run, "downlink_bytes")
    return np.arange(1.0, len(run.steps) + 1.0), np.cumsum(numbers(run, "seconds")), np.cumsum(sent) / 1e6


def _axes_labels(runs: Sequence[History]) -> tuple[str, str, str]:
    virtual = any((run.summary or {}).get("clock") == "virtual" for run in runs)
    return "step", "virtual seconds of steps" if virtual else "seconds of steps", "MB sent, up and down"


def one_legend(figure: SubFigure, axes: Axes) -> None:
    """Draw one legend, above all panels."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False)

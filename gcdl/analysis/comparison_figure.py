"""The figure of several runs: their losses and what else was measured, the delays each met, and how long steps took."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from gcdl.analysis.curve_panels import draw_losses, draw_others, one_legend, other_curves
from gcdl.analysis.figure import STYLES, whole_numbers
from gcdl.analysis.run_names import config_differences, run_names
from gcdl.analysis.series import numbers
from gcdl.config import Experiment
from gcdl.stragglers import delays_at
from gcdl.training.run_reader import History
from gcdl.types import Matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLE_CHARACTERS = 130


def draw_comparison(figure: Figure, runs: Sequence[History]) -> None:
    """Draw several runs. The title says in which config keys they differ."""
    names = run_names([run.path for run in runs])
    figure.suptitle(_title(runs, names))
    others = other_curves(runs)
    if others:
        figure.set_size_inches(12.0, 10.0)
    rows = figure.subfigures(3 if others else 2, 1, squeeze=False, height_ratios=(1.1, 1.0, 0.8)[: 3 if others else 2])[:, 0]
    panels = rows[0].subplots(1, 3, sharey=True)
    draw_losses(panels, runs, names)
    one_legend(rows[0], panels[0])
    delays, seconds = rows[1].subplots(1, 2)
    _delays(delays, runs, names)
    _seconds(seconds, runs, names)
    if others:
        draw_others(rows[2], runs, names)


def _title(runs: Sequence[History], names: Sequence[str]) -> str:
    """Return the runs' names, and what differs: with its values as long as there is room."""
    differ = config_differences([run.config.toml() for run in runs])
    if not differ:
        return f"{', '.join(names)}: the same config"
    # What a kind decides is left out: its other keys come and go with it.
    kinds = {key.removesuffix("kind") for key, _ in differ if key.endswith(".kind")}
    shown = [one for one in differ if one[0].endswith(".kind") or not one[0].startswith(tuple(kinds))]
    text = "; ".join(f"{key}: {' / '.join(value or '-' for value in values)}" for key, values in shown)
    if len(text) > _TITLE_CHARACTERS:
        text = "they differ in " + ", ".join(key for key, _ in shown)
    if len(text) > _TITLE_CHARACTERS:
        text = text[: _TITLE_CHARACTERS - 4] + " ..."
    return f"{', '.join(names)}\n{text}"


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
    whole_numbers(axes.xaxis)


def _drawn(run: History) -> Matrix:
    """Return the (steps, n) seconds that were injected. They are drawn again: they depend on the config alone."""
    drawn = np.full((len(run.steps), run.workers), np.inf)
    parts = [(first, Experiment.of(config, config.workers or run.workers)) for first, config in run.parts]
    for step, row in enumerate(drawn):
        experiment = next(experiment for first, experiment in reversed(parts) if first <= step)
        row[: experiment.n] = delays_at(experiment.stragglers, experiment.n, run.config.seed, step).seconds
    return drawn


def _seconds(axes: Axes, runs: Sequence[History], names: Sequence[str]) -> None:
    """Draw how long steps took: the share of steps up to each length."""
    for run, name, (colour, dashes) in zip(runs, names, cycle(STYLES), strict=False):
        length = np.sort(numbers(run, "seconds"))
        share = np.arange(1, len(length) + 1) / len(length)
        axes.step(length, share, where="post", color=colour, linestyle=dashes, linewidth=1.6, label=name)
    axes.set(
        xlabel="seconds of a step", ylabel="share of steps that took no longer", title="How long steps took", ylim=(0.0, 1.02)
    )

"""``gcdl plot``: one run, or several compared, as PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gcdl.analysis.comparison_figure import draw_comparison
from gcdl.analysis.figure import figure_files, saved
from gcdl.analysis.run_figure import draw_run
from gcdl.errors import DataError
from gcdl.training.run_reader import read_run


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
    return saved(files, lambda figure: draw_run(figure, runs[0]) if len(runs) == 1 else draw_comparison(figure, runs))

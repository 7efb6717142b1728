"""What a run recorded, as arrays over its steps; NaN where there is no number."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from gcdl.training.run_reader import History
from gcdl.types import Matrix, Weights


def numbers(run: History, key: str) -> Weights:
    """Return (steps,) what a key of ``steps.jsonl`` says."""
    found = [line.get(key) for line in run.steps]
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def metric_names(run: History) -> list[str]:
    """Return the names of the metrics that a run recorded in any step, sorted."""
    return sorted({name for line in run.steps for name in line.get("metrics", {})})


def metric(run: History, name: str) -> Weights:
    """Return (steps,) a metric."""
    found = [line.get("metrics", {}).get(name) for line in run.steps]
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def trailing_mean(values: Weights, window: int) -> Weights:
    """Return the mean of the last ``window`` values at each place; of fewer at the beginning. NaN stays where it is."""
    if window == 1 or not np.isfinite(values).all():
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts), dtype=np.float64)


def binned(table: Matrix, limit: int) -> Matrix:
    """Return (rows, columns) with rows averaged so that at most ``limit`` are left."""
    if len(table) <= limit:
        return table
    edges = np.linspace(0, len(table), limit + 1).astype(int)
    return np.array([table[first:last].mean(axis=0) for first, last in pairwise(edges)], dtype=np.float64)

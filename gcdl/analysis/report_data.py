"""What the report says of a run, JSON-ready: figures, curves, who was used and who was late, workers, timeline, config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcdl.analysis.report_timeline import timeline_data
from gcdl.analysis.series import binned, metric, metric_names, numbers
from gcdl.errors import DataError
from gcdl.training.run_files import CONFIG, MANIFEST, STEPS
from gcdl.training.run_reader import History, read_run

_POINTS = 4000
"""Points of a curve; each stands for the mean over some steps, where a run has more."""
_CELLS = (300, 64)
"""Steps and workers of the picture of who was used; more are averaged."""
_WORKERS = 1000
"""Rows of the table of workers; of more, those whose replies were used least."""
_FACTS = {
    "steps": "steps", "workers": "workers", "parameters": "parameters", "final_train_loss": "training loss",
    "final_test_loss": "test loss", "final_test_accuracy": "test accuracy", "seconds": "seconds of steps",
    "wall_seconds": "seconds of the job", "wait_for_all_seconds": "seconds, had it waited for all (estimate)",
    "uplink_bytes": "bytes up", "downlink_bytes": "bytes down", "float32_uplink_bytes": "bytes up, as float32",
    "late_replies": "late replies", "lost_workers": "lost workers", "resumed": "times resumed",
    "stopped": "stopped", "model_sha256": "model",
}  # fmt: skip
_VIRTUAL = {
    "seconds": "virtual seconds of steps",
    "wall_seconds": "real seconds of the simulation",
    "wait_for_all_seconds": "virtual seconds, had it waited for all (estimate)",
}
"""What these are called where the clock is virtual."""
TRAINING, TEST = "training loss", "test loss"
DENSE = {"train_loss": TRAINING, "lr": "learning rate", "gradient_norm": "gradient norm", "seconds": "seconds a step"}
"""Curves with a value in every step."""
SPARSE = {"test_loss": TEST, "test_accuracy": "test accuracy"}
"""Curves with a value where the model was evaluated."""


def run_data(path: Path) -> dict[str, Any]:
    """Return what the report shows of a run, but for where its time went.

    Raises
    ------
    DataError : not a run folder, a damaged one, or one without steps.
    """
    run = read_run(path)
    if not run.steps:
        raise DataError(f"{path / STEPS}: no step was recorded")
    choices = run.config.choices
    return {
        "name": path.resolve().name,
        "title": ", ".join(choices[name].kind for name in ("code", "compressor", "wait", "stragglers")),
        "facts": _facts(run),
        "warnings": _warnings(run),
        **_curves(run),
        "who": _who(run),
        "workers": _workers(run),
        "timeline": timeline_data(path),
        "config": (path / CONFIG).read_text(encoding="utf-8"),
        "manifest": _manifest(path),
    }


def _facts(run: History) -> list[tuple[str, str]]:
    if run.summary is None:
        return [("steps", f"{len(run.steps):,}"), ("workers", f"{run.workers:,}")]
    labels = {**_FACTS, **_VIRTUAL} if run.summary.get("clock") == "virtual" else _FACTS
    found = [(label, run.summary.get(key)) for key, label in labels.items()]
    metrics = run.summary.get("final_metrics")
    found += list(metrics.items()) if isinstance(metrics, dict) else []
    return [(label, _text(value)) for label, value in found if value not in (None, [], 0)]


def _warnings(run: History) -> list[str]:
    if run.summary is None:
        return [f"The run did not end well: {len(run.steps)} steps are recorded."]
    return [str(warning) for warning in run.summary.get("warnings") or []]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.5g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _curves(run: History) -> dict[str, Any]:
    """Return the curves, and what they are drawn against: steps, seconds of steps, and bits in both directions."""
    every = -(-len(run.steps) // _POINTS)
    seconds = np.cumsum(numbers(run, "seconds"))
    bits = 8.0 * np.cumsum(numbers(run, "uplink_bytes") + numbers(run, "downlink_bytes"))
    metrics = metric_names(run)
    curves = {label: numbers(run, key) for key, label in {**DENSE, **SPARSE}.items()}
    curves |= {name: metric(run, name) for name in metrics}
    steps = np.arange(1.0, len(run.steps) + 1.0)
    return {
        "every": every,
        "x": {name: _plain(x[every - 1 :: every] if every > 1 else x) for name, x in
              {"step": steps, "seconds": seconds, "bits": bits}.items()},
        "curves": {label: _plain(_means(values, every)) for label, values in curves.items() if np.isfinite(values).any()},
        "metrics": metrics,
    }  # fmt: skip


def _means(values: NDArray[np.float64], every: int) -> NDArray[np.float64]:
    """Return the mean over each ``every`` values, of those that there are."""
    if every == 1:
        return values
    whole = len(values) // every * every
    table = values[:whole].reshape(-1, every)
    there = np.isfinite(table).sum(axis=1)
    sums = np.where(np.isfinite(table), table, 0.0).sum(axis=1)
    return np.where(there > 0, sums / np.maximum(there, 1), np.nan)


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    """Return numbers as JSON has them: 7 digits, null where there is none."""
    return [float(f"{value:.7g}") if np.isfinite(value) else None for value in values.tolist()]


def _who(run: History) -> dict[str, Any]:
    """Return who was used, a text a worker and a character for some steps: the tenths that were late, or x for lost."""
    late = np.ones((len(run.steps), run.workers))
    for number, line in enumerate(run.steps):
        late[number, line["replies"]] = 0.0
    absent = run.absent()
    late[absent] = 0.0
    lost = absent.astype(np.float64)
    late, lost = (binned(binned(table, _CELLS[0]).T, _CELLS[1]) for table in (late, lost))
    tenths = np.ceil(9.0 * late).astype(int)
    cells = np.where(lost > 0.5, "x", tenths.astype(str))
    return {"cells": ["".join(row) for row in cells.tolist()], "steps": len(run.steps), "workers": run.workers}


def _workers(run: History) -> list[list[Any]]:
    """Return a row a worker: its id; share of steps used; steps not used; median and 95 % of reply seconds; median of
    computing; the step at which it was lost. None where there is nothing to tell."""
    came, computed = run.by_worker("reply_seconds"), run.by_worker("compute_seconds")
    lost: dict[int, int] = {}
    for line in run.steps:
        for worker in line["lost"]:
            lost.setdefault(worker, line["step"])
    rows: list[list[Any]] = []
    for worker in range(run.workers):
        used = np.isfinite(came[:, worker])
        times: list[float | None] = [None, None, None]
        if used.any():
            reply, compute = came[used, worker], computed[used, worker]
            times = [_digits(np.median(reply)), _digits(np.quantile(reply, 0.95)), _digits(np.median(compute))]
        rows.append([worker, _digits(used.mean()), int((~used).sum()), *times, lost.get(worker)])
    if len(rows) > _WORKERS:
        rows = sorted(sorted(rows, key=lambda row: row[1])[:_WORKERS])
    return rows


def _digits(value: Any) -> float:
    return float(f"{float(value):.4g}")


def _manifest(path: Path) -> str:
    try:
        return json.dumps(json.loads((path / MANIFEST).read_text(encoding="utf-8")), indent=2)
    except (OSError, ValueError):
        return ""

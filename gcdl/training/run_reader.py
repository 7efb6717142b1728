"""What a run folder tells once the run is over: its config, its steps, its summary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcdl.config import Config, load, parse
from gcdl.errors import DataError
from gcdl.training.run_files import CONFIG, MANIFEST, STEPS, SUMMARY, whole_lines
from gcdl.training.run_parts import parts_of
from gcdl.types import Matrix

_NUMBERS = ("seconds", "train_loss", "decoding_error", "noise_gain", "gradient_norm", "uplink_bytes", "downlink_bytes")
_SUMMARY = ("steps", "model_sha256")
"""What every summary has, those of earlier versions too."""


@dataclass(frozen=True)
class History:
    """A run that was.

    Attributes
    ----------
    path : the run folder.
    config : of its last part.
    workers : n; of a run that was resumed with other numbers, the largest.
    steps : the lines of ``steps.jsonl``, checked.
    summary : None if the run did not end well.
    parts : (first step, config) of each part that had another number of workers, code, compressor or downlink.
    """

    path: Path
    config: Config
    workers: int
    steps: list[dict[str, Any]]
    summary: dict[str, Any] | None
    parts: Sequence[tuple[int, Config]] = ()

    def last_part(self) -> History:
        """Return the run without the steps of earlier parts: all that is left had the same config."""
        first = self.parts[-1][0] if self.parts else 0
        workers = self.workers if self.config.workers is None else self.config.workers
        steps = [line for line in self.steps if line["step"] >= first]
        return History(self.path, self.config, workers, steps, self.summary)

    def absent(self) -> NDArray[np.bool_]:
        """Return who was lost by then, or had no place in that part of the run, (steps, n)."""
        gone = np.zeros((len(self.steps), self.workers), dtype=np.bool_)
        for row, line in zip(gone, self.steps, strict=True):
            row[self.config_at(line["step"]).workers :] = True
            row[line["lost"]] = True
        return gone

    def config_at(self, step: int) -> Config:
        """Return the config of a step."""
        return next((config for first, config in reversed(self.parts) if first <= step), self.config)

    def by_worker(self, key: str) -> Matrix:
        """Return what a list beside ``replies`` says, as (steps, n); NaN where a worker's reply was not used.

        Raises
        ------
        DataError : the run did not record it.
        """
        table = np.full((len(self.steps), self.workers), np.nan)
        for row, line in zip(table, self.steps, strict=True):
            values = line.get(key)
            if not isinstance(values, list) or len(values) != len(line["replies"]):
                raise DataError(f"{self.path / STEPS}, line {line['step'] + 1}: has no {key} beside its replies")
            try:
                row[line["replies"]] = values
            except (TypeError, ValueError, OverflowError):
                raise DataError(f"{self.path / STEPS}, line {line['step'] + 1}: {key}: {values!r} are not numbers") from None
        return table


def read_run(path: Path) -> History:
    """Read a run folder.

    Raises
    ------
    DataError : it is none, a line of ``steps.jsonl`` is not what a run writes, or ``summary.json`` is damaged; names the file.
    ConfigError : its config is not valid any more.
    """
    try:
        found = (path / CONFIG).is_file() and (path / STEPS).is_file()
    except OSError:  # no path at all: too long
        found = False
    if not found:
        raise DataError(f"{path}: not a run folder (it has no {CONFIG} and {STEPS})")
    config = load(path / CONFIG)
    if config.workers is None:
        raise DataError(f"{path / CONFIG}: says no number of workers; not a resolved config")
    try:
        lines = list(whole_lines(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path / STEPS}: cannot be read: {error}") from None
    summary = _summary(path / SUMMARY) if (path / SUMMARY).exists() else None
    parts = _parts(path)
    workers = {first: part.workers or 0 for first, part in parts}
    steps, n = [], 0
    for number, text in enumerate(lines):
        n = workers.get(number, n)
        try:
            steps.append(read_line(text, number, n))
        except ValueError as error:
            raise DataError(f"{path / STEPS}, line {number + 1}: {error}") from None
    return History(path, config, max(workers.values()), steps, summary, parts)


def _parts(path: Path) -> list[tuple[int, Config]]:
    """Return the parts of a run. A manifest that is not there, or damaged, says of none but the last.

    Raises
    ------
    ConfigError : the config of some part is not valid any more.
    """
    text = (path / CONFIG).read_text(encoding="utf-8")
    try:
        found = parts_of(json.loads((path / MANIFEST).read_text(encoding="utf-8")).get("resumed", []), text)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        found = parts_of([], text)
    return [(first, parse(config, name=str(path / CONFIG))) for first, config in found]


def read_line(text: bytes, step: int, n: int) -> dict[str, Any]:
    """Read the line of ``step`` in ``steps.jsonl``, of a run with n workers.

    Raises
    ------
    ValueError : it is not what a run writes; says why.
    """
    try:
        line = json.loads(text)
    except ValueError:
        raise ValueError("not JSON") from None
    wrong = _wrong(line, step, n)
    if wrong is not None:
        raise ValueError(wrong)
    return dict(line)


def _summary(path: Path) -> dict[str, Any]:
    """Read a summary; raises DataError, which names the file, if it is not what a run writes."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged: {error}; remove it, and gcdl resume writes it anew") from None
    missing = [key for key in _SUMMARY if key not in summary] if isinstance(summary, dict) else _SUMMARY
    if missing:
        raise DataError(f"{path}: damaged: it has no {missing[0]}; remove it, and gcdl resume writes it anew")
    return dict(summary)


def _wrong(line: Any, step: int, n: int) -> str | None:
    """Say what is wrong with a line that should be of ``step``."""
    if not isinstance(line, dict) or line.get("step") != step:
        return f"step {line.get('step') if isinstance(line, dict) else line!r} where step {step} was expected"
    for key in ("replies", "lost", "fresh"):
        ids = line.get(key)
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < n for i in ids) or ids != sorted(set(ids)):
            return f"{key}: {ids!r} are not ascending ids of {n} workers"
    if "recoded" in line and not _is_code(line["recoded"], n):
        return f"recoded: not a code for {n} workers"
    if not line["replies"]:
        return "replies: none; a step has one at least"
    for key in _NUMBERS:
        if key not in line:
            return f"{key}: missing"
        if not isinstance(line[key], int | float | None):
            return f"{key}: {line[key]!r} is not a number"
    return None


def _is_code(recoded: Any, n: int) -> bool:
    """Say whether this is what a line has of a code: for some of n workers, the shards of each, and their entries."""
    if not isinstance(recoded, dict):
        return False
    workers, assignment, weights = (recoded.get(key) for key in ("workers", "assignment", "weights"))
    if not (isinstance(workers, list) and isinstance(assignment, list) and isinstance(weights, list)):
        return False
    return len(workers) == len(assignment) == len(weights) and all(
        type(i) is int and 0 <= i < n and isinstance(shards, list) for i, shards in zip(workers, assignment, strict=True)
    )

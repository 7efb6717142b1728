"""A CSV file: a line a step, a column a figure."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "metrics.csv"


class CSV:
    """Writes a run's figures to ``metrics.csv`` in the run folder, or to ``path``.

    A figure that a step has not got is empty. The file is written anew when a figure comes up for the first time. A resumed
    run goes on in the same file.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._given = None if path is None else Path(path)

    def begin(self, config: Mapping[str, Any], folder: Path) -> None:
        """Find out what is there already: a run that is resumed goes on with it."""
        self._path = self._given or folder / FILE
        self._columns, rows = self._read()
        self._last = int(rows[-1]["step"]) if rows else -1

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Write a step. Steps that a resumed run does again replace those that it did before."""
        row = {"step": str(step), **{name: repr(value) for name, value in figures.items()}}
        anew = [name for name in row if name not in self._columns]
        if anew or step <= self._last:
            _, before = self._read()
            self._columns += anew
            self._write([*(done for done in before if int(done["step"]) < step), row], anew=True)
        else:
            self._write([row], anew=False)
        self._last = step

    def end(self, summary: Mapping[str, Any] | None) -> None:
        """Do nothing: all is on disk."""

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """Return the file's columns and rows; none if it is not there."""
        if not self._path.exists():
            return [], []
        with self._path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or []), list(reader)

    def _write(self, rows: list[dict[str, str]], *, anew: bool) -> None:
        with self._path.open("w" if anew else "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            if anew:
                writer.writeheader()
            writer.writerows(rows)

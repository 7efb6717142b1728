"""What a user sees of a sweep: a bar and the newest cell while it runs, then the tables, the rates chosen, and what failed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gcdl.analysis.sweeps.outcome import Outcome
from gcdl.analysis.sweeps.results import RESULTS, Results, ResultTable, failures
from gcdl.analysis.sweeps.suite import Cell, Combination

_PLAIN_SECONDS = 2.0
_FAILURES_SHOWN = 10
_GAP, _EDGES = 2, 2
"""Places on the screen between two columns of a table, and at its sides together."""


class SweepDisplay:
    """Shows a sweep on a console: a live bar on a terminal, a line now and then elsewhere. A context manager."""

    def __init__(self, console: Console, cells: int) -> None:
        self.console = console
        self._done = 0
        self._cells = cells
        self._printed = 0.0
        self._bar = Progress(
            TextColumn("cells"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(), TextColumn("{task.description}"), console=console, transient=True,
            disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=cells)

    def __enter__(self) -> SweepDisplay:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def cell(self, cell: Cell, outcome: Outcome) -> None:
        """A cell is over."""
        self._done += 1
        self._cells = max(self._cells, self._done)
        loss = outcome.figures.get("final_test_loss")
        came = outcome.message if outcome.status == "failed" else f"test loss {'not finite' if loss is None else f'{loss:.4g}'}"
        self._bar.update(self._task, completed=self._done, total=self._cells, description=str(cell))
        now = time.monotonic()
        if not self.console.is_terminal and (now - self._printed > _PLAIN_SECONDS or self._done == self._cells):
            self._printed = now
            self._say(f"{self._done}/{self._cells}  {cell}: {came}")
            self.console.file.flush()

    def report(self, results: Results, combinations: Sequence[Combination], folder: Path) -> None:
        """Show what the sweep came to; of the groups that ``combinations`` are of."""
        groups = {results.title(one) for one in combinations}
        for table in results.tables():
            if table.title in groups:
                for part in _parts(table, self.console.width):
                    self.console.print(part)
                if table.note:
                    self.console.print(Text(table.note, style="dim"), soft_wrap=True)
        failed = failures(results)
        for name, message in list(failed.items())[:_FAILURES_SHOWN]:
            self._say(f"failed: {name}: {message}")
        if len(failed) > _FAILURES_SHOWN:
            self._say(f"failed: {len(failed) - _FAILURES_SHOWN} more; {folder / RESULTS} names them")
        self._say(f"results: {folder / RESULTS}")

    def _say(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)


def _parts(table: ResultTable, width: int) -> Iterator[Table]:
    """Yield a table in parts that each fit a screen: columns that have no room come below, beside the first column again."""
    widths = [max(map(len, (*head.split(), *cells))) for head, *cells in _columns(table)]
    groups = [[0]]
    for number, wide in enumerate(widths[1:], start=1):
        used = _EDGES + sum(widths[other] + _GAP for other in groups[-1])
        if used + wide > width and groups[-1] != [0]:
            groups.append([0])
        groups[-1].append(number)
    for place, group in enumerate(groups):
        title = (table.title or None) if place == 0 else None
        part = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP - 1, 0, 0), title_justify="left")
        for number in group:
            side: Literal["left", "right"] = "left" if number == 0 else "right"
            part.add_column(table.header[number], justify=side, min_width=min(widths[number], width // 2))
        for row in table.rows:
            part.add_row(*(Text(row[number]) for number in group))
        yield part


def _columns(table: ResultTable) -> Iterator[tuple[str, ...]]:
    """Yield each column: its heading, and its cells."""
    yield from zip(table.header, *table.rows, strict=True)

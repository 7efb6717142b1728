"""What a user sees of a sweep: a bar and the newest cell while it runs, then the tables, the rates chosen, and what failed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gcdl.analysis.sweeps.outcome import Outcome
from gcdl.analysis.sweeps.results import RESULTS, Results, failures
from gcdl.analysis.sweeps.suite import Cell, Combination

_PLAIN_SECONDS = 2.0
_FAILURES_SHOWN = 10
_WIDTH = 180


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
        wide = self.console if self.console.is_terminal else Console(file=self.console.file, width=_WIDTH)
        groups = {", ".join(one.place[:-1]) for one in combinations}
        for title, header, rows in results.tables():
            if title not in groups:
                continue
            table = Table(title=title or None)
            for number, column in enumerate(header):
                table.add_column(column, justify="left" if number == 0 else "right")
            for row in rows:
                table.add_row(*map(Text, row))
            wide.print(table)
        failed = failures(results)
        for name, message in list(failed.items())[:_FAILURES_SHOWN]:
            self._say(f"failed: {name}: {message}")
        if len(failed) > _FAILURES_SHOWN:
            self._say(f"failed: {len(failed) - _FAILURES_SHOWN} more; {folder / RESULTS} names them")
        self._say(f"results: {folder / RESULTS}")

    def _say(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)

"""What a user sees of a run: a live display on a terminal, plain lines elsewhere, a table at the end.

A display is fed the lines of ``steps.jsonl``, from the run itself or from the file as it grows.
"""

from __future__ import annotations

import termios
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_PLAIN_SECONDS = 2.0
_WORKERS_SHOWN = 256
_RUNS_SHOWN = 12


class Display:
    """Shows a run on a console. A context manager: the live part ends with the block."""

    def __init__(self, console: Console, name: str) -> None:
        self.console = console
        self.name = name
        self._view: _Live | _Plain | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._view is not None:
            self._view.end()

    def begin(self, steps: int, workers: int, folder: Path, masters: int = 1) -> None:
        """Show that a run of so many steps, workers and masters starts, which writes to ``folder``."""
        if self._view is not None:
            self._view.end()
        self._view = (_Live if self.console.is_terminal else _Plain)(self.console, self.name, steps, workers, folder, masters)

    def starting(self, ready: int | None) -> None:
        """Show how many workers are ready, while they start; None: rank 0 itself is not up."""
        if isinstance(self._view, _Live):
            self._view.ready = ready

    def stop(self) -> None:
        """Take down the live part: nothing more is shown by it."""
        if self._view is not None:
            self._view.end()
            self._view = None

    def step(self, line: Mapping[str, Any]) -> None:
        """Show a step: a line of ``steps.jsonl``."""
        if self._view is not None:
            self._view.step(line)

    def say(self, line: str) -> None:
        """Show a line of text above whatever else is shown."""
        self.console.print(Text(line), soft_wrap=True)

    def report(self, summary: Mapping[str, Any], folder: Path) -> None:
        """Show what a run came to: the fields of ``summary.json``."""
        if self._view is not None:
            self._view.end()
        self.console.print(_report(summary))
        self.console.print(Text(f"run folder: {folder}"), soft_wrap=True)


class _Plain:
    """A line every two seconds, and for each evaluation."""

    def __init__(self, console: Console, name: str, steps: int, workers: int, folder: Path, masters: int) -> None:
        self.console, self.steps, self.workers = console, steps, workers
        self._first: tuple[float, int] | None = None
        self._printed = 0.0
        self._totals = _Totals()
        shared = f" and {masters} masters" if masters > 1 else ""
        self._line(f"{name}: {steps} steps with {workers} workers{shared}; writing to {folder}")

    def step(self, line: Mapping[str, Any]) -> None:
        self._totals.add(line)
        done = line["step"] + 1
        now = time.monotonic()
        if now - self._printed < _PLAIN_SECONDS and "test_loss" not in line and done < self.steps:
            return
        self._printed = now
        late = _ranges(_absent(line, self.workers))
        # The first step bears the start-up: it says nothing of the others.
        self._first = self._first or (now, done)
        began, before = self._first
        left = f"{(now - began) / (done - before) * (self.steps - done):.0f} s left" if done > before else "..."
        parts = [
            f"step {done}/{self.steps}",
            *([] if line["train_loss"] is None else [f"loss {_number(line['train_loss'])}"]),  # timing only: there is none
            f"{len(line['replies'])}/{self.workers} replies" + (f" (not waited for: {late})" if late else ""),
            f"up {_bytes(self._totals.up)}, down {_bytes(self._totals.down)}",
            left,
        ]
        if line.get("test_accuracy") is not None:
            parts.insert(2, f"test accuracy {line['test_accuracy']:.2%}")
        elif line.get("test_loss") is not None:
            parts.insert(2, f"test loss {_number(line['test_loss'])}")
        self._line("  ".join(parts) + _trouble(line))

    def end(self) -> None:
        """Nothing to take down."""

    def _line(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)
        self.console.file.flush()


class _Live:
    """A panel that is drawn again a few times a second."""

    def __init__(self, console: Console, name: str, steps: int, workers: int, folder: Path, masters: int) -> None:
        self.workers, self.name, self.folder, self.masters = workers, name, folder, masters
        self._totals = _Totals()
        self._last: Mapping[str, Any] | None = None
        self._judged = ""
        self._progress = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=None), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        self._task = self._progress.add_task("steps", total=steps)
        self.ready: int | None = None
        self._live = Live(self._render(), console=console, refresh_per_second=8, get_renderable=self._render)
        self._echo = _without_echo_of_signals(console)
        self._live.start()

    def step(self, line: Mapping[str, Any]) -> None:
        self._totals.add(line)
        self._last = line
        self._progress.update(self._task, completed=line["step"] + 1)
        if line.get("test_accuracy") is not None:
            self._judged = f"{line['test_accuracy']:.2%} (step {line['step'] + 1})"

    def end(self) -> None:
        self._live.transient = self._last is None  # of a run that has not begun there is nothing to leave on the screen
        self._live.stop()
        self._echo()

    def _render(self) -> Panel:
        line = self._last
        facts = Table.grid(padding=(0, 2))
        if line is None:
            up = "starting the ranks ..." if self.ready is None else f"{self.ready} of {self.workers} workers are ready"
            facts.add_row(up)
        else:
            if line["train_loss"] is not None:  # timing only: there is none
                facts.add_row("training loss", _number(line["train_loss"]))
            if self._judged:
                facts.add_row("test accuracy", self._judged)
            if self.masters > 1:
                facts.add_row("masters", f"{self.masters}, a slice of the model each")
            facts.add_row("workers", self._strip(line))
            facts.add_row("sent up", f"{_bytes(self._totals.up)}  ({_bytes(line['uplink_bytes'])} in this step)")
            facts.add_row("sent down", f"{_bytes(self._totals.down)}  ({_bytes(line['downlink_bytes'])} in this step)")
            facts.add_row("late replies", f"{self._totals.late}" + _trouble(line))
        return Panel(Group(self._progress, facts), title=f"gcdl: {self.name}", subtitle=str(self.folder))

    def _strip(self, line: Mapping[str, Any]) -> Text:
        """One mark a worker: filled if its reply was used, hollow if not, a cross if it is lost."""
        replied, lost = set(line["replies"]), set(line["lost"])
        strip = Text()
        for worker in range(min(self.workers, _WORKERS_SHOWN)):
            if worker in lost:
                strip.append("x", "bold red")
            elif worker in replied:
                strip.append("●", "green")
            else:
                strip.append("○", "yellow")
        late = _ranges(_absent(line, self.workers))
        return strip.append(f"  late: {late}" if late else "")


def _without_echo_of_signals(console: Console) -> Callable[[], None]:
    """Keep a terminal from writing ^C into what is drawn on it; return what undoes that."""
    try:
        file = console.file.fileno()
        before = termios.tcgetattr(file)
    except (OSError, ValueError, termios.error):
        return lambda: None  # no terminal
    changed = termios.tcgetattr(file)
    changed[3] = changed[3] & ~termios.ECHOCTL | termios.NOFLSH  # nor may what is being drawn be thrown away
    termios.tcsetattr(file, termios.TCSANOW, changed)

    def undo() -> None:
        with suppress(OSError, termios.error):
            termios.tcsetattr(file, termios.TCSANOW, before)

    return undo


class _Totals:
    def __init__(self) -> None:
        self.up = self.down = self.late = 0

    def add(self, line: Mapping[str, Any]) -> None:
        self.up += line["uplink_bytes"]
        self.down += line["downlink_bytes"]
        self.late += line["late"]


def _report(summary: Mapping[str, Any]) -> Table:
    table = Table(title="result", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    accuracy = summary["final_test_accuracy"]
    if accuracy is not None:
        table.add_row("test accuracy", f"{accuracy:.2%}", "")
    if summary["final_test_loss"] is not None:
        table.add_row("test loss", _number(summary["final_test_loss"]), "")
    if summary["model_sha256"] is not None:
        table.add_row("training loss", _number(summary["final_train_loss"]), "over the whole training set")
    if summary.get("stopped"):
        table.add_row("stopped", summary["stopped"], f"after {summary['steps']} steps")
    _add_seconds(table, summary)
    sent, float32 = summary["uplink_bytes"], summary["float32_uplink_bytes"]
    if summary["resumed"]:
        table.add_row("resumed", str(summary["resumed"]), "times; figures are of all parts")
    table.add_row("sent up", _bytes(sent), f"float32: {_bytes(float32)}, {float32 / sent:.1f} times as much" if sent else "")
    table.add_row("sent down", _bytes(summary["downlink_bytes"]), "")
    table.add_row("late replies", str(summary["late_replies"]), "came too late, recognised and dropped")
    if summary.get("masters", 1) > 1:
        table.add_row("masters", str(summary["masters"]), "a slice of the model each")
    if summary["timed_out_steps"]:
        table.add_row("timed out", f"{summary['timed_out_steps']} steps", "decoded from fewer replies than asked for")
    if summary["foreign_messages"]:
        table.add_row("dropped", f"{summary['foreign_messages']} messages", "damaged, repeated, or not of this run")
    if summary["lost_workers"]:
        more = f"their processes ended; {summary['losses_left']} more might have gone"
        table.add_row("lost workers", _ranges(summary["lost_workers"]), more)
    if summary["replaced_workers"]:
        table.add_row("replaced", ", ".join(map(str, summary["replaced_workers"])), "another process took the lost one's place")
    for worker, steps in summary["disagreeing_workers"].items():
        table.add_row("disagreed", f"worker {worker}", f"in {steps} steps: its reply was not that of its replicas")
    for warning in summary["warnings"]:
        table.add_row("warning", "", Text(warning, "yellow"))
    return table


def _add_seconds(table: Table, summary: Mapping[str, Any]) -> None:
    """Add what the run took. Of a simulation virtual and real seconds have rows of their own."""
    if summary.get("clock") == "virtual":
        table.add_row("steps", f"{summary['seconds']:.1f} s", "virtual seconds")
        table.add_row("simulated in", f"{summary['wall_seconds']:.1f} s", "real seconds, of this process")
    else:
        table.add_row("job", f"{summary['wall_seconds']:.1f} s", f"of which steps: {summary['seconds']:.1f} s")
    waiting = summary["wait_for_all_seconds"]
    unit = "virtual seconds; " if summary.get("clock") == "virtual" else ""
    table.add_row("waiting for all", "never ends" if waiting is None else f"{waiting:.1f} s", f"{unit}estimate, same delays")


def _absent(line: Mapping[str, Any], workers: int) -> list[int]:
    there = {*line["replies"], *line["lost"]}
    return [worker for worker in range(workers) if worker not in there]


def _trouble(line: Mapping[str, Any]) -> str:
    trouble = "  timed out" if line["timed_out"] else ""
    return trouble + (f"  lost: {_ranges(line['lost'])}" if line["lost"] else "")


def _ranges(ids: list[int]) -> str:
    """Return ascending ids as ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in ids:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs[:_RUNS_SHOWN])
    return shown if len(runs) <= _RUNS_SHOWN else f"{shown}, ...: {len(ids)} workers"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000.0:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000.0
    return f"{count:.1f} TB"

"""The live display leaves the terminal as it found it, and says how many workers are ready."""

from __future__ import annotations

import os
import termios
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from gcdl.training.display import Display


class Terminal:
    """A terminal in memory; what is written to it is read at once."""

    def __init__(self) -> None:
        self._ours, self.theirs = os.openpty()
        self.console = Console(file=os.fdopen(self.theirs, "w"), force_terminal=True, width=80)
        self.text = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                self.text += os.read(self._ours, 65536).decode(errors="replace")
            except OSError:
                return

    def flags(self) -> int:
        return termios.tcgetattr(self.theirs)[3]

    def shows(self, words: str) -> bool:
        until = time.monotonic() + 5.0
        while words not in self.text and time.monotonic() < until:
            time.sleep(0.02)
        return words in self.text


@pytest.fixture
def terminal():
    one = Terminal()
    yield one
    one.console.file.close()


def test_ready_workers_are_counted_while_they_start(terminal):
    with Display(terminal.console, "run") as display:
        display.begin(10, 4, Path("run"))
        assert terminal.shows("starting the ranks ...")
        display.starting(3)
        assert terminal.shows("3 of 4 workers are ready")


def test_an_interrupt_does_not_write_into_the_drawing_and_the_terminal_is_left_as_it_was(terminal):
    before = terminal.flags()
    assert before & termios.ECHOCTL
    with Display(terminal.console, "run") as display:
        display.begin(10, 4, Path("run"))
        assert not terminal.flags() & termios.ECHOCTL
        assert terminal.flags() & termios.NOFLSH
        display.stop()
        assert terminal.flags() == before
        display.say("a line of text")
    assert terminal.shows("a line of text")
    assert terminal.flags() == before


def test_what_is_no_terminal_is_left_alone(tmp_path):
    with (tmp_path / "log").open("w") as file, Display(Console(file=file, force_terminal=True, width=80), "run") as display:
        display.begin(10, 4, Path("run"))
    assert "starting the ranks" in (tmp_path / "log").read_text()

"""What all tests share: the order they run in, and the command line as a function.

Order (see launch/test): tests of the hosts and of Slurm, which mostly wait, each in one process because what they run on is
made once and shared; beside them tests without MPI; then MPI jobs; then those marked ``alone``, which measure times that a job
beside them would change: they hold a lock, so that no other job runs meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gcdl.config import Config
from gcdl.protocol.step_record import StepRecord
from gcdl.training.watcher import Watcher

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("hosts", "slurm", "", "mpi", "alone")
"""Marks, in the order of their tests; "": none of them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-seed", type=int, default=0, help="tests/exhaustive: other mutations")
    parser.addoption("--fuzz-count", type=int, default=1000, help="tests/exhaustive: mutations of configs; of others a fifth")


def _turn(item: pytest.Item) -> str:
    """Return which of ORDER a test belongs to."""
    return next((mark for mark in ("alone", "hosts", "slurm", "mpi") if item.get_closest_marker(mark)), "")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.index(_turn(item)))
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if (turn := _turn(item)) in ("hosts", "slurm", "alone"):
                item.add_marker(pytest.mark.xdist_group(turn))


@pytest.fixture(autouse=True)
def _share_the_cores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run a job beside others, or alone."""
    turn = _turn(request.node)
    if not turn:
        yield
        return
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all processes of this test run
    with (folder / "jobs.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if turn == "alone" else fcntl.LOCK_SH)
        yield


class Heard(Watcher):
    """Keeps what a run reports."""

    def __init__(self) -> None:
        self.records: list[StepRecord] = []
        self.lines: list[str] = []

    def begin(self, config: Config, folder: Path, done: int) -> None:
        self.done = done

    def step(self, record: StepRecord) -> None:
        self.records.append(record)

    def say(self, line: str) -> None:
        self.lines.append(line)


def telling(cases: Iterable[str], *names: str) -> list[Any]:
    """Parametrize with cases: those with these names here, the others in the exhaustive suite."""
    return [case if case in names else pytest.param(case, marks=pytest.mark.exhaustive) for case in cases]


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def message(self) -> str:
        """The one message of a command that was used wrongly, after checking that there is no other."""
        assert self.returncode == 2, self.stdout + self.stderr
        assert "Traceback" not in self.stdout + self.stderr, self.stderr
        (line,) = self.stderr.splitlines()
        assert line.startswith("gcdl: "), line
        return line


@pytest.fixture
def command_line() -> Callable[..., Done]:
    """Do what ``gcdl ARGUMENTS...`` does, in this process: what a command imports need not be imported anew.

    Not for ``train``, nor for ``doctor`` under mpirun: they start MPI in their own process. See :func:`process`.
    """

    def call(*arguments: str, cwd: Path = ROOT) -> Done:
        from gcdl.cli import main

        out, err = io.StringIO(), io.StringIO()
        handler = signal.getsignal(signal.SIGINT)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["gcdl", *arguments])
            patch.setenv("COLUMNS", "80")  # of a pipe; not of the terminal that the tests may run in
            patch.chdir(cwd)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
                main()
        signal.signal(signal.SIGINT, handler)  # main() ends by ignoring it
        code = end.value.code
        return Done(code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())

    return call


@pytest.fixture
def process() -> Callable[..., Done]:
    """Run ``python -m gcdl ARGUMENTS...``."""

    def run(*arguments: str, cwd: Path = ROOT) -> Done:
        words = [sys.executable, "-m", "gcdl", *arguments]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=cwd, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    return run

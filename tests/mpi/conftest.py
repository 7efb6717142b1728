"""Real jobs: every test here starts MPI processes, with a timeout, and leaves none behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import gcdl
from gcdl.config import parse
from gcdl.launch.mpirun import mpirun
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint
from gcdl.training.watcher import Watcher

LINEAR = """
seed = 3
workers = 4
steps = 30
[problem]
kind = "linear_regression"
features = 37
samples = 20
[code]
kind = "fractional_repetition"
stragglers = 1
[optimizer]
lr = 0.05
[run]
eval_every = 10
checkpoint_every = 10
"""
"""Small, and without torch on the workers: a job of 5 ranks is up in three seconds."""

BUSY = 3.0
"""Deadlines are for a machine that has nothing else to do. On another, a job may take so many times as long."""


@dataclass
class Ended:
    """A job that has ended."""

    code: int
    output: str
    folder: Path

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "steps.jsonl").read_text().splitlines()]

    @property
    def messages(self) -> list[str]:
        """The lines gcdl itself wrote as messages."""
        return [line for line in self.output.splitlines() if line.startswith("gcdl:")]


class Job:
    """A job that may still run. Its ranks are known by the run folder's name on their command lines."""

    def __init__(self, command: list[str], folder: Path, number: int) -> None:
        self.folder = folder
        # Of its own: what other jobs leave is not this one's fault.
        self._shared = Path(tempfile.mkdtemp(prefix="gcdl-test-", dir="/dev/shm"))
        self._log = (folder.parent / f"job{number}.log").open("w+")
        self.process = subprocess.Popen(
            command, cwd=folder.parent, env={**environment(), "OMPI_MCA_btl_sm_backing_directory": str(self._shared)},
            stdout=self._log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def until_step(self, step: int, seconds: float = 60.0) -> None:
        """Wait until ``step`` steps are recorded."""
        end = time.monotonic() + BUSY * seconds
        while self.steps() < step:
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)

    def until_output(self, text: str, seconds: float = 60.0) -> None:
        """Wait until the job has printed this."""
        end = time.monotonic() + BUSY * seconds
        while text not in self.log():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)

    def steps(self) -> int:
        """Return how many steps are recorded."""
        steps = self.folder / "steps.jsonl"
        return steps.read_bytes().count(b"\n") if steps.exists() else 0

    def pid(self, rank: int) -> int:
        """Return the process id of a rank; replacements are counted on from the last one."""
        for pid in self.ranks():
            try:
                environment = Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue  # it is gone by now: another that was killed
            variables = dict(word.partition(b"=")[::2] for word in environment.split(b"\0"))
            mine = variables.get(b"GCDL_REPLACEMENT", variables.get(b"OMPI_COMM_WORLD_RANK", b"")).split()
            if mine and int(mine[0]) == rank:
                return pid
        raise AssertionError(f"there is no rank {rank}")

    def mpirun(self) -> int:
        """Return the process id of the mpirun that ``gcdl run`` has started."""
        (child,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(child)

    def ranks(self) -> list[int]:
        """Return the ids of the processes that name our run folder, mpirun and the like left out."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(self.folder).encode() in arguments and arguments[0].rsplit(b"/", 1)[-1].startswith(b"python"):
                found.append(int(entry.name))
        return found

    def leftovers(self) -> list[Path]:
        """Return what of MPI's files lies in shared memory."""
        return list(self._shared.iterdir())

    def log(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text()

    def end(self, seconds: float = 90.0) -> Ended:
        """Wait for the end and check that no process is left, and nothing in shared memory."""
        code = self.process.wait(BUSY * seconds)
        end = time.monotonic() + 30.0
        while (self.ranks() or self.leftovers()) and time.monotonic() < end:
            time.sleep(0.05)
        assert not self.ranks(), f"processes left behind\n{self.log()}"
        assert not self.leftovers(), self.leftovers()
        return Ended(code, self.log(), self.folder)

    def cleanup(self) -> None:
        for pid in self.ranks():
            os.kill(pid, signal.SIGKILL)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._log.close()
        shutil.rmtree(self._shared)


def environment() -> dict[str, str]:
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    # The ranks run the gcdl that these tests were written beside, whichever is installed.
    return {**os.environ, **root, "PYTHONPATH": str(Path(gcdl.__file__).parents[1])}


class Start:
    """Starts jobs in a folder of their own."""

    def __init__(self, tmp_path: Path) -> None:
        self.jobs: list[Job] = []
        self._path = tmp_path

    def __call__(
        self,
        verb: str,
        *overrides: str,
        config: str = LINEAR,
        ranks: int = 5,
        script: str | None = None,
        survive: bool = False,
    ) -> Job:
        """Start ``gcdl VERB CONFIG overrides``. VERB train: under mpirun by hand, or, to ``survive`` killed ranks, as gcdl run
        calls it. ``script`` is run instead of gcdl's own entry; ``ranks`` are for train."""
        path = self._path / "config.toml"
        path.write_text(config)
        folder = self._path / f"run{len(self.jobs)}"
        return self._start(verb, [str(path), *overrides, "--out", str(folder)], folder, ranks, script, survive)

    def resume(self, verb: str, job: Job | Ended, *overrides: str, ranks: int = 5, survive: bool = False) -> Job:
        """Go on with a run: ``gcdl resume RUN``, or ``gcdl train --resume --out RUN`` under mpirun."""
        where = ["--resume", "--out", str(job.folder)] if verb == "train" else [str(job.folder)]
        return self._start(verb, [*where, *overrides], job.folder, ranks, None, survive)

    def _start(self, verb: str, words: list[str], folder: Path, ranks: int, script: str | None, survive: bool) -> Job:
        program = [sys.executable, *(["-m", "gcdl"] if script is None else ["-c", script])]
        launcher: list[str] = []
        if verb == "train":
            ours = mpirun(ranks)  # as gcdl run would
            launcher = ours if survive else [ours[0], "--map-by", ":OVERSUBSCRIBE", "-n", str(ranks)]
        self.jobs.append(Job([*launcher, *program, verb, *words], folder, len(self.jobs)))
        return self.jobs[-1]


@pytest.fixture
def simulated(tmp_path: Path) -> Callable[..., Ended]:
    """Do what ``gcdl simulate`` does, in this process: it need not import torch for each run."""

    def run(*overrides: str, config: str = LINEAR) -> Ended:
        folder = tmp_path / f"simulated{len(list(tmp_path.glob('simulated*')))}"
        simulate(StartingPoint(parse(config, overrides), folder), Watcher())
        return Ended(0, "", folder)

    return run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start jobs; see :class:`Start`."""
    starter = Start(tmp_path)
    yield starter
    for job in starter.jobs:
        job.cleanup()

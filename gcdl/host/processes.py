"""Notices that another process of this machine is gone, and ends what depends on it.

For what MPI does not tell in time: a rank in the middle of a long pass does not look at its messages, and mpirun does not
know that the launcher above it was killed. A process is known by its id and the time it started, so that another one that
gets the same id later is not mistaken for it.
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

_LOOK_SECONDS = 0.5


def birth(pid: int) -> int:
    """Return when a process of this machine started, in ticks since the boot; 0 if there is none, or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


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
    """Call ``then`` in a thread of its own as soon as this process is gone. If it is not there now, nothing is watched."""
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
    """Kill the mpirun that started this process, if it is still there after so many seconds: from outside, later."""
    pid = os.getppid()
    with suppress(OSError):
        if Path(f"/proc/{pid}/comm").read_text().strip() not in ("prterun", "mpirun"):
            return
        script = f'sleep {seconds}; set -- $(cat /proc/{pid}/stat); [ "${{22}}" = {birth(pid)} ] && kill -KILL {pid}'
        detached(script)


def end_soon(seconds: float, *, interrupt: bool = False) -> None:
    """Kill this process after so many seconds; ``interrupt`` it before, as Ctrl-C does, so that it may save what it has."""
    if interrupt:
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)

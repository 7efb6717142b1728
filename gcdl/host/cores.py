"""Which cores ranks run on: the master gets one to itself, if its host has a core for every rank.

The master decodes while the workers compute, and everyone waits for it. So the workers on its host keep off one core, with all
its processors. The master is not bound to that core: the scheduler finds it free. The choice depends on the process id, so
that several jobs on one host choose different cores. A binding by the launcher stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gcdl.host.launcher_environment import Launch


def choose_core(launch: Launch) -> list[int]:
    """Return the processors of the core that workers leave to the master, this process; empty: there are too few cores."""
    allowed = os.sched_getaffinity(0)
    cores = sorted({tuple(sorted(siblings(processor) & allowed)) for processor in allowed})
    if launch.local_size < 2 or launch.local_size > len(cores):
        return []
    return list(cores[os.getpid() % len(cores)])


def leave_core(taken: Sequence[int]) -> None:
    """Keep this process off these processors of its host, unless there are no others."""
    left = os.sched_getaffinity(0) - set(taken)
    if taken and left:
        with suppress(OSError):
            os.sched_setaffinity(0, left)


def siblings(processor: int) -> set[int]:
    """Return the processors of the core that this one belongs to."""
    path = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
    with suppress(OSError, ValueError):
        found: set[int] = set()
        for part in path.read_text().strip().split(","):
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
        return found
    return {processor}

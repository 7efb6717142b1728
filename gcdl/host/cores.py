"""Where ranks run: the master has a core to itself, wherever its host has a core for every rank.

The master decodes while the workers compute; a worker's thread on its core would hold up everyone. So the workers on its host
leave one core alone, all processors of it. Nothing is bound to it: the master alone finds it free, and where several jobs
share a host, each leaves another one. A launcher's own binding stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gcdl.host.launcher_environment import Launch


def choose_core(launch: Launch) -> list[int]:
    """Return the processors of the core that is the master's, on whose host this is; empty: there are not enough cores."""
    allowed = os.sched_getaffinity(0)
    cores = sorted({tuple(sorted(siblings(processor) & allowed)) for processor in allowed})
    if launch.local_size < 2 or launch.local_size > len(cores):
        return []
    return list(cores[os.getpid() % len(cores)])


def leave_core(taken: Sequence[int]) -> None:
    """Leave these processors, of this host, to the master, unless there are no others."""
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

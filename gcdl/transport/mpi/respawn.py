"""New processes in the place of lost workers, which the master starts while the run goes on.

MPI starts a process (``MPI_Comm_spawn``) with the command line and the environment of the master: tools that find the ranks of
a run by these find it too. That takes 0.1 to 0.2 s. It happens in a thread, one process at a time, with a deadline, so that a
Spawn that does not return does not hold up the run. The two talk over the intercommunicator that Spawn returns. The first
message on it is what the other ranks were told at the start. Then the process waits for its place, as a spare rank does.

This works on the master's own host, if the launcher and MPI let the others go on when a rank dies. On other hosts Open MPI
starts nothing after a failure.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI

from gcdl.host.processes import this_process
from gcdl.transport.mpi.job import REPLACEMENT, TAG, Job

_SPAWN_SECONDS = 60.0
_EACH_ITS_OWN = ("OMPI_", "OPAL_", "PMIX_", "PRTE_", "PMI_")
"""Environment variables by which a launcher tells a process who it is."""


@dataclass(eq=False)
class Newcomer:
    """A process for a lost worker's place: rank 0 on the other side of ``comm``; or ``why`` there is none.

    ``rank`` is what it goes by: the ranks of the job are counted on.
    """

    worker: int
    rank: int
    comm: MPI.Comm | None = None
    why: str = ""


class Replacements:
    """Starts them.

    Parameters
    ----------
    job : this process is its master.
    count : how many may be started.
    shared : what the master told the other ranks at the start, JSON-ready.
    """

    def __init__(self, job: Job, count: int, shared: dict[str, Any]) -> None:
        self._job = job
        self._left = count
        self._shared = json.dumps(shared).encode()
        self._rank = job.workers
        self._asked: deque[Newcomer] = deque()
        """The first one is being started by ``_thread``."""
        self._thread: threading.Thread | None = None
        self._until = 0.0
        self._stuck = False

    def refusal(self, host: str) -> str:
        """Return why a lost worker of this host can't be replaced; "" if it can, or nobody asked for it."""
        if not self._left:
            return ""
        if not self._job.spawns:
            return "this MPI, or how mpirun was called, does not let a run start processes after a failure"
        return "" if host == platform.node() else "it was not on the master's host; [run] spares can be"

    def begin(self, worker: int, host: str) -> bool:
        """Start a process for the place of a worker lost on this host, which :meth:`look` hands out; or return False."""
        if not self._left or self._stuck or self.refusal(host):
            return False
        self._left -= 1
        self._rank += 1
        self._asked.append(Newcomer(worker, self._rank))
        return True

    @property
    def pending(self) -> bool:
        """Whether some were asked for that have not been handed out."""
        return bool(self._asked)

    def look(self) -> Newcomer | None:
        """Return the next one that is there, or has failed. Never blocks."""
        if not self._asked:
            return None
        if self._thread is None:
            self._until = time.monotonic() + _SPAWN_SECONDS
            self._thread = threading.Thread(target=_spawn, args=(self._asked[0],), name="spawn", daemon=True)
            self._thread.start()
        self._stuck = self._thread.is_alive() and time.monotonic() > self._until
        if self._stuck:
            late = self._asked.popleft()
            return Newcomer(late.worker, late.rank, why=f"MPI has not started it within {_SPAWN_SECONDS:g} s")
        if self._thread.is_alive():
            return None
        self._thread = None
        return self._asked.popleft()

    def welcome(self, comm: MPI.Comm) -> list[MPI.Request]:
        """Tell a newcomer what the others were told at the start; returns what holds the messages until they are sent."""
        size = np.array([len(self._shared)], dtype=np.int64)
        body = np.frombuffer(self._shared, dtype=np.uint8)
        return [comm.Isend(size, dest=0, tag=TAG), comm.Isend(body, dest=0, tag=TAG)]


def _spawn(newcomer: Newcomer) -> None:
    """Start the process; blocks until it is up."""
    me = this_process()
    environment = [f"{name}={value}" for name, value in os.environ.items() if not name.startswith(_EACH_ITS_OWN)]
    program = [f"{REPLACEMENT}={newcomer.rank} {me['pid']} {me['born']}", sys.executable, *sys.orig_argv[1:]]
    info = MPI.Info.Create({"wdir": os.getcwd(), "host": me["host"], "map_by": ":OVERSUBSCRIBE", "bind_to": "none"})
    try:
        newcomer.comm = MPI.COMM_SELF.Spawn("env", args=[*environment, *program], maxprocs=1, info=info)
    except MPI.Exception as error:
        newcomer.why = str(error)

"""All MPI ranks of a job: how they begin together, wait, and end.

Importing this module loads the MPI library; :func:`world` starts it, if library and launcher go together.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import mpi4py
import numpy as np

# With this thread level Open MPI over TCP does not deadlock when a rank dies in the middle of a large message.
mpi4py.rc.thread_level = "serialized"
mpi4py.rc.initialize = False
with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # of another MPI's launcher: world() says so
    from mpi4py import MPI

from gcdl.errors import MasterGone, UsageError  # noqa: E402
from gcdl.launched import Launch, conflict  # noqa: E402
from gcdl.messages import Kind, bare  # noqa: E402

TAG = 7
"""Of all gcdl's messages: the order of messages between two ranks is the order they were sent in."""
CONTROL_BYTES = 1 << 16
"""The largest message that is no task and no reply: room for a traceback."""
SHUTDOWN_SECONDS = 5.0
"""How long one side waits for the other when the job ends."""


def remove_segments() -> None:
    """Remove this job's files in shared memory: MPI does so in Finalize, which a damaged job has to leave out.

    All that this process maps: its own, and those of the ranks it talked to, killed ones among them.
    """
    with suppress(OSError):
        mapped = {
            line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "_segment." in line
        }
        for path in mapped:
            if path.startswith("/dev/shm/"):
                Path(path).unlink(missing_ok=True)


class Backoff:
    """Sleeps between polls: 20 microseconds, doubling to 1 ms; in a long wait up to a twentieth of it, at most 5 ms.

    The sleep is what a poll costs (25 microseconds of a core on the machine measured; the test itself 0.2).
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """There was traffic: poll fast again."""
        self._seconds = 20e-6
        self._waited = 0.0

    def sleep(self, at_most: float = 1.0) -> None:
        """Sleep a little, longer each time, never longer than ``at_most`` seconds."""
        time.sleep(max(0.0, min(self._seconds, at_most)))
        self._waited += self._seconds
        self._seconds = min(2.0 * self._seconds, max(1e-3, min(self._waited / 20.0, 5e-3)))


class Job:
    """All ranks of this job, how they begin together, and how they end.

    Attributes
    ----------
    comm : the communicator; rank 0 is the master.
    damaged : a rank was lost or left behind, so that finalizing MPI together could hang.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.comm = comm
        self.damaged = False
        self._run = 0
        self._farewell: list[int] = []

    @property
    def rank(self) -> int:
        """This process's rank."""
        return int(self.comm.rank)

    @property
    def survives(self) -> bool:
        """Whether the launcher and MPI let the other ranks go on when one is killed (ULFM, by ``mpirun --with-ft ulfm``)."""
        return os.environ.get("OMPI_MCA_mpi_ft_enable", "0").lower() in ("1", "true", "yes")  # noqa: SIM112

    @property
    def workers(self) -> int:
        """The number of ranks beside the master: workers and spares."""
        return int(self.comm.size) - 1

    def broadcast(self, message: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
        """Send rank 0's JSON-ready ``message`` to all ranks, without spinning while they wait. Collective.

        Raises
        ------
        MasterGone : nothing has come after ``seconds``.
        """
        text = b"" if message is None else json.dumps(message).encode()
        size = np.array([len(text)], dtype=np.int64)
        self._complete(self.comm.Ibcast(size, root=0), seconds)
        body = np.frombuffer(text, dtype=np.uint8).copy() if self.rank == 0 else np.empty(int(size[0]), dtype=np.uint8)
        self._complete(self.comm.Ibcast(body, root=0), seconds)
        received: dict[str, Any] = json.loads(body.tobytes())
        return received

    def say_farewell_to(self, ranks: list[int], run: int) -> None:
        """Note which ranks wait for the master's END when the job ends."""
        self._farewell, self._run = ranks, run

    def end(self, code: int) -> NoReturn:
        """Leave MPI, and the process, with an exit code."""
        sys.stdout.flush()
        sys.stderr.flush()
        sends = []
        for rank in self._farewell:
            message = bare(Kind.END, self._run, step=int(self.damaged))
            with suppress(MPI.Exception):
                sends.append((self.comm.Isend([message, MPI.BYTE], dest=rank, tag=TAG), message))
        for request, _ in sends:
            with suppress(MPI.Exception, MasterGone):
                self._complete(request, SHUTDOWN_SECONDS)
        if self.damaged:
            remove_segments()
            os._exit(code)
        MPI.Finalize()
        sys.exit(code)  # not os._exit: MPICH takes leave of its launcher only when the process ends in the regular way

    def abandon(self) -> NoReturn:
        """Leave as one does who has lost the others: by a signal, the only way an MPI job is sure to notice."""
        sys.stdout.flush()
        sys.stderr.flush()
        remove_segments()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    @staticmethod
    def _complete(request: MPI.Request, seconds: float) -> None:
        until = time.monotonic() + seconds
        backoff = Backoff()
        while not request.Test():
            if time.monotonic() > until:
                raise MasterGone(f"the ranks have not all come together within {seconds:g} s")
            backoff.sleep()


def library() -> tuple[str, int, str]:
    """Return the MPI library that this python has loaded: vendor, major version, and what it says of itself."""
    vendor, version = MPI.get_vendor()
    return vendor, int(version[0]), MPI.Get_library_version().rstrip("\0").splitlines()[0].strip()


def world() -> Job:
    """Start MPI; return the job this process was started in.

    Raises
    ------
    UsageError : launcher and library do not go together. MPI has not started then.
    """
    if not MPI.Is_initialized():
        vendor, major, _ = library()
        if reason := conflict(Launch.read(), vendor, major):
            raise UsageError(reason)
        MPI.Init_thread(MPI.THREAD_SERIALIZED)
    return Job(MPI.COMM_WORLD)

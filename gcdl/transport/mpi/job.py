"""All MPI ranks of a job: how they begin together, wait, and end.

Importing this module loads the MPI library; :func:`world` starts it, if library and launcher go together.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import platform
import signal
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NoReturn

import mpi4py
import numpy as np
from numpy.typing import NDArray

mpi4py.rc.initialize = False  # world() does that
mpi4py.rc.finalize = False  # and sees to this
with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # of another MPI's launcher: world() says so
    from mpi4py import MPI

from gcdl.errors import MasterGone, UsageError  # noqa: E402
from gcdl.host.launcher_environment import Launch, conflict  # noqa: E402
from gcdl.host.processes import end_launcher, end_soon, segments, when_gone  # noqa: E402
from gcdl.protocol.wire import Kind, bare  # noqa: E402
from gcdl.transport.mpi.backoff import Backoff  # noqa: E402
from gcdl.types import aligned_vector  # noqa: E402

REPLACEMENT = "GCDL_REPLACEMENT"
"""The environment variable of a process started in a lost worker's place: its rank; the master's process, and its birth."""
TAG = 7
"""Of all gcdl's messages: the order of messages between two ranks is the order they were sent in."""
CONTROL_BYTES = 1 << 16
"""The largest message that is no task and no reply: room for a traceback."""
MOST_BYTES = (1 << 31) - 1
"""Of any message."""
PART_BYTES = 1 << 20
"""Of a compressor's state that goes to the master: the whole would need a buffer of its size there for each worker."""
SHUTDOWN_SECONDS = 5.0
"""How long one side waits for the other when the job ends."""
LAUNCHER_SECONDS = 5.0
"""How long an mpirun that may have lost hosts has to end by itself after the master."""


def remove_segments() -> None:
    """Remove this job's files in shared memory: MPI does so in Finalize, which a damaged job has to leave out.

    All that this process maps: its own, and those of the ranks it talked to, killed ones among them.
    """
    for segment in segments(os.getpid()):
        with suppress(OSError):
            segment.unlink(missing_ok=True)


def check_size(nbytes: int, what: str) -> None:
    """Refuse a message that MPI can't count: its counts are 32-bit integers.

    Raises
    ------
    UsageError : it has 2 GiB or more.
    """
    if nbytes > MOST_BYTES:
        raise UsageError(
            f"{what} would be a message of {nbytes:,} bytes; MPI takes {MOST_BYTES:,} at most: take several masters "
            "(run.masters), or a compressor or a downlink of fewer bits"
        )


def masters_first(hosts: Sequence[int], masters: int) -> list[int]:
    """Return all ranks, those that are to be masters first: on as many different hosts as there are, rank 0 among them.

    ``hosts``: of each rank, a number that is the same for ranks of one host.

    >>> masters_first([7, 7, 7, 9, 9, 8], 3)
    [0, 3, 5, 1, 2, 4]
    """
    turns: dict[int, int] = {}
    round_of = []
    for host in hosts:
        round_of.append(turns.get(host, 0))
        turns[host] = turns.get(host, 0) + 1
    chosen = sorted(range(len(hosts)), key=lambda rank: (round_of[rank], rank))[:masters]
    return [*chosen, *(rank for rank in range(len(hosts)) if rank not in chosen)]


class Job:
    """All ranks of this job, how they begin together, and how they end.

    Attributes
    ----------
    comm : the communicator; rank 0 is the master.
    damaged : a rank was lost or left behind, so that finalizing MPI together could hang.
    told_bytes : what this rank has told all others by :meth:`broadcast`.
    unreachable : a rank on another host was left behind, so that mpirun may not end by itself.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.comm = comm
        self.damaged = False
        self.told_bytes = 0
        self.unreachable = False
        self._run = 0
        self._farewell: list[tuple[MPI.Comm, int]] = []

    @property
    def rank(self) -> int:
        """This process's rank."""
        return int(self.comm.rank)

    @property
    def size(self) -> int:
        """The number of ranks."""
        return int(self.comm.size)

    @property
    def survives(self) -> bool:
        """Whether the launcher and MPI let the other ranks go on when one is killed (ULFM, by ``mpirun --with-ft ulfm``)."""
        return _survives()

    @property
    def late(self) -> bool:
        """Whether this process was started in a lost worker's place."""
        return REPLACEMENT in os.environ

    @property
    def spawns(self) -> bool:
        """Whether this process can start others, in a thread, after some were lost."""
        return self.survives and bool(MPI.Query_thread() == MPI.THREAD_MULTIPLE)

    def failed(self) -> set[int]:
        """Return the ranks that MPI knows to be gone, as of the last time it was asked for anything."""
        failed, everyone = self.comm.Get_failed(), self.comm.Get_group()
        ranks = failed.Translate_ranks(None, everyone)
        failed.Free()
        everyone.Free()
        return set(ranks)

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
        if self.rank == 0:
            self.told_bytes += (size.nbytes + body.nbytes) * self.workers
        received: dict[str, Any] = json.loads(body.tobytes())
        return received

    def place_masters(self, masters: int, seconds: float) -> None:
        """Renumber the ranks, so that the first ``masters`` lie on different hosts where there are several. Collective.

        Rank 0 stays what it is.

        Raises
        ------
        MasterGone : the others have not come within ``seconds``.
        """
        mine = np.array([zlib.crc32(platform.node().encode())], dtype=np.int64)
        hosts = np.zeros(self.comm.size, dtype=np.int64)
        self._complete(self.comm.Iallgather(mine, hosts), seconds)
        order = masters_first(hosts.tolist(), masters)
        if order != list(range(len(order))):
            self.comm = self.comm.Split(0, order.index(self.comm.rank))
            self.comm.Set_errhandler(MPI.ERRORS_RETURN)

    def say_farewell_to(self, ranks: list[tuple[MPI.Comm, int]], run: int) -> None:
        """Note which ranks, of which communicators, wait for the master's END when the job ends."""
        self._farewell, self._run = ranks, run

    def add_farewell(self, ranks: list[tuple[MPI.Comm, int]]) -> None:
        """Note further ranks that wait for END."""
        self._farewell += ranks

    def end(self, code: int) -> NoReturn:
        """Leave MPI, and the process, with an exit code."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.part()
        if self.unreachable:
            end_launcher(LAUNCHER_SECONDS)
        if self.damaged:
            remove_segments()
            os._exit(code)
        MPI.Finalize()
        sys.exit(code)  # not os._exit: MPICH takes leave of its launcher only when the process ends in the regular way

    def part(self, outcome: dict[str, Any] | None = None, model: NDArray[np.float32] | None = None) -> None:
        """Send END to the ranks that wait for it.

        The ranks of a script are also told how the run ended, and the trained model, (d,), if there is one. They receive that
        by :meth:`learn`.
        """
        sends: list[tuple[MPI.Request, NDArray[Any]]] = []
        said = np.frombuffer(json.dumps(outcome).encode(), dtype=np.uint8)
        parts: list[NDArray[Any]] = [np.array([said.size, 0 if model is None else model.size], dtype=np.int64), said]
        parts += [] if model is None else [model]
        for comm, rank in self._farewell:
            message = bare(Kind.END, self._run, step=int(self.damaged))
            with suppress(MPI.Exception):
                sends.append((comm.Isend([message, MPI.BYTE], dest=rank, tag=TAG), message))
            if outcome is not None and comm == self.comm:
                with suppress(MPI.Exception):
                    sends += [(comm.Isend(part, dest=rank, tag=TAG), part) for part in parts]
        for request, _ in sends:
            with suppress(MPI.Exception, MasterGone):
                self._complete(request, SHUTDOWN_SECONDS)
        self._disconnect([comm for comm, _ in self._farewell if comm != self.comm])
        self._farewell = []

    def learn(self, seconds: float) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
        """Return what the master said in :meth:`part` behind END.

        Raises
        ------
        MasterGone : nothing has come after ``seconds``, or the master is gone.
        """
        sizes = np.zeros(2, dtype=np.int64)
        try:
            self._complete(self.comm.Irecv(sizes, source=0, tag=TAG), seconds)
            outcome = np.empty(int(sizes[0]), dtype=np.uint8)
            self._complete(self.comm.Irecv(outcome, source=0, tag=TAG), seconds)
            model = aligned_vector(int(sizes[1])) if sizes[1] else None
            if model is not None:
                self._complete(self.comm.Irecv(model, source=0, tag=TAG), seconds)
        except MPI.Exception as error:
            raise MasterGone(f"rank {self.rank}: lost the master ({error})") from error
        return json.loads(outcome.tobytes()), model

    def abandon(self) -> NoReturn:
        """End this process by a signal because the others are lost: MPI is sure to notice nothing else."""
        sys.stdout.flush()
        sys.stderr.flush()
        remove_segments()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    @staticmethod
    def _disconnect(comms: list[MPI.Comm]) -> None:
        """Disconnect from replacements, which do the same; do not wait for ever."""

        def disconnect() -> None:
            for comm in comms:
                with suppress(MPI.Exception):
                    comm.Disconnect()

        if comms:
            thread = threading.Thread(target=disconnect, daemon=True)
            thread.start()
            thread.join(SHUTDOWN_SECONDS)

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


class LateJob(Job):
    """The job of a process that was started in a lost worker's place: it can talk to the master alone."""

    def __init__(self, master: MPI.Comm) -> None:
        super().__init__(master)
        self._rank = int(os.environ[REPLACEMENT].split()[0])

    @property
    def rank(self) -> int:
        """The number it goes by: the ranks of the job are counted on."""
        return self._rank

    @property
    def workers(self) -> int:
        """As many ranks beside the master as there have been, this one included."""
        return self._rank

    def broadcast(self, message: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
        """Receive what the other ranks were told at the start; raises as theirs does."""
        size = np.zeros(1, dtype=np.int64)
        self._complete(self.comm.Irecv(size, source=0, tag=TAG), seconds)
        body = np.empty(int(size[0]), dtype=np.uint8)
        self._complete(self.comm.Irecv(body, source=0, tag=TAG), seconds)
        received: dict[str, Any] = json.loads(body.tobytes())
        return received

    def end(self, code: int) -> NoReturn:
        """Leave MPI, and the process: it is finalized, unlike in the other ranks of a damaged job, or mpirun complains."""
        sys.stdout.flush()
        sys.stderr.flush()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(SHUTDOWN_SECONDS))  # ends this process if MPI hangs
        self.comm.Disconnect()
        MPI.Finalize()
        os._exit(code)


def _start_mpi() -> None:
    """Start MPI, at the thread level this process needs.

    Over TCP Open MPI deadlocks when a rank dies in the middle of a large message, unless it uses these flags or the lower
    thread level. The master needs the higher one, to start processes in a thread (:mod:`gcdl.transport.mpi.respawn`).
    """
    if _survives():
        os.environ.setdefault("OMPI_MCA_btl_tcp_flags", "send,inplace")
    safe = os.environ.get("OMPI_MCA_btl_tcp_flags") == "send,inplace"  # noqa: SIM112
    master = os.environ.get("OMPI_COMM_WORLD_RANK") == "0" and REPLACEMENT not in os.environ
    if REPLACEMENT in os.environ:
        _, pid, born = map(int, os.environ[REPLACEMENT].split())
        when_gone(pid, born, lambda: end_soon(SHUTDOWN_SECONDS))
    MPI.Init_thread(MPI.THREAD_MULTIPLE if _survives() and safe and master else MPI.THREAD_SERIALIZED)


def _survives() -> bool:
    return os.environ.get("OMPI_MCA_mpi_ft_enable", "0").lower() in ("1", "true", "yes")  # noqa: SIM112


@cache
def world() -> Job:
    """Start MPI; return the job this process was started in. However it ends, MPI is finalized, unless the job is damaged.

    Raises
    ------
    UsageError : launcher and library do not go together. MPI has not started then.
    """
    if not MPI.Is_initialized():
        vendor, major, _ = library()
        if reason := conflict(Launch.read(), vendor, major):
            raise UsageError(reason)
        _start_mpi()
    parent = MPI.Comm.Get_parent() if REPLACEMENT in os.environ else MPI.COMM_NULL
    job = Job(MPI.COMM_WORLD) if parent == MPI.COMM_NULL else LateJob(parent)

    def leave() -> None:
        if job.damaged:
            remove_segments()
        elif not MPI.Is_finalized():
            MPI.Finalize()

    # Runs after leave(). Python's last collections would look at every object of torch: seconds, with a rank a core or more.
    atexit.register(gc.freeze)
    atexit.register(leave)
    return job

"""The receives that a master has posted, tested together.

``MPI_Testsome`` looks at 64 requests in 3 microseconds, where single tests take 27. Under fault tolerance it raises when a
sender is gone, and says neither who that is nor what else is complete. Both can be found: a request that is complete, or has
failed, has become null, and the statuses come in the order of the requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mpi4py import MPI

from gcdl.types import Buffer


@dataclass(eq=False)
class Tested:
    """What a test of all receives has found: by place, the bytes received; and the error, where the sender is gone."""

    received: list[tuple[int, int]] = field(default_factory=list)
    failed: list[tuple[int, MPI.Exception]] = field(default_factory=list)


class Receives:
    """Receives by place: at most one is posted at each."""

    def __init__(self) -> None:
        self._requests: list[MPI.Request] = []
        self._statuses: list[MPI.Status] = []
        self._sources: list[int | None] = []
        """From which rank, of its communicator, each receives; None: nothing is posted there."""

    def add(self) -> int:
        """Return a new place."""
        self._requests.append(MPI.REQUEST_NULL)
        self._sources.append(None)
        self._statuses.append(MPI.Status())
        return len(self._requests) - 1

    def post(self, place: int, comm: MPI.Comm, source: int, tag: int, into: Buffer) -> None:
        """Begin to receive; raises MPI.Exception if the sender is known to be gone."""
        self._requests[place] = comm.Irecv([into, MPI.BYTE], source=source, tag=tag)
        self._sources[place] = source

    def forget(self, place: int) -> None:
        """Do not test this place any more. MPI may still hold its buffer."""
        self._requests[place] = MPI.REQUEST_NULL
        self._sources[place] = None

    def test(self) -> Tested:
        """Test all that are posted."""
        found = Tested()
        try:
            places = MPI.Request.Testsome(self._requests, self._statuses)
        except MPI.Exception:
            self._resolve(found)
        else:
            for place, status in zip(places or (), self._statuses, strict=False):
                found.received.append((place, status.Get_count(MPI.BYTE)))
        for place, _ in found.received:
            self._sources[place] = None
        return found

    def _resolve(self, found: Tested) -> None:
        """Find out what is complete, and what has failed, after a test that raised."""
        statuses = iter(self._statuses)
        for place, source in enumerate(self._sources):
            if source is None or self._requests[place]:
                continue
            status = next((status for status in statuses if status.Get_source() == source), None)
            if status is not None and status.Get_error() == MPI.SUCCESS:
                found.received.append((place, status.Get_count(MPI.BYTE)))
            else:
                error = MPI.ERR_OTHER if status is None else status.Get_error()
                found.failed.append((place, MPI.Exception(error)))
        for place, _ in found.failed:
            self.forget(place)

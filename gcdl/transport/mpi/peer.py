"""What a master knows of one worker."""

from __future__ import annotations

from dataclasses import dataclass

from gcdl.transport.mpi.task_sender import Lane
from gcdl.types import Buffer


@dataclass(eq=False)
class Peer:
    """One worker, or a spare: its rank, the buffer that its messages come into, and how far it is."""

    worker: int
    rank: int
    """What messages to the user call it. The lane knows its rank in the lane's communicator."""
    inbox: Buffer
    lane: Lane
    place: int
    """Of the receive into the inbox; see :class:`gcdl.transport.mpi.receives.Receives`."""
    filling: bool = False
    """A receive into the inbox is under way; or it has a message that is still to be read."""
    reply_in_use: bool = False
    """The inbox has the reply to the newest task, which the master may still read: nothing may be received into it."""
    awaited: bool = True
    """Somebody may read the reply to its newest task. Not any more, once the worker was asked for its state, or re-coded."""
    newest: int = -1
    """The step of the newest task."""
    replied: int = -1
    """The step of the newest reply."""
    received_bytes: int = 0
    """Of replies."""
    reported_bytes: int | None = None
    """Of replies, as the worker has said in its BYE; None: it has not said BYE."""
    ready: bool = False
    gone: bool = False
    host: str = "?"
    pid: int = 0
    born: int = 0
    """When its process started; see gcdl.host.processes. 0: it is of another machine, or can't be seen from here."""
    watched: bool = False
    """The system tells when its process ends."""

    @property
    def name(self) -> str:
        """How messages to the user call it."""
        return f"worker {self.worker} (rank {self.rank}, host {self.host})"

"""What masters tell each other: rank 0, which decides, and the slice masters, which decode, step and publish.

::

    slice master            rank 0
    HELLO, READY     ->
                     <-     ARRAYS (a resumed run), BEGIN
    HOLDS            ->             as replies come: whose, and what replicas and MMSE decoding need of each
                     <-     DECODE  the decoding vector
    DECODED          ->             squared norms of the BLOCKs, traffic
                     <-     STEP    only where gradients are clipped: the norm of all slices
                     <-     COLLECT
    ARRAYS           ->
                     <-     PING    where it has long said nothing
    PONG             ->
                     <-     STOP
    TRAFFIC          ->
                     <-     END

Bodies: DECODE has a, (n,) float64, then (n,) uint8, who has arrived. HOLDS has m, int64, then (m,) int64, the ranks of the
processes that sent m replies, then a note on each: 16 bytes of a digest of the payload, and its energies, (blocks, 2) float64.
Replies that have come together share a message: rank 0 would have n (K - 1) of them to read in a step. DECODED has the squared
norms, (blocks,) float64, then the traffic. The run's config decides whether digests and energies are there. Arrays follow
their ARRAYS message in pieces without a header.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping

import numpy as np
from mpi4py import MPI

from gcdl.downlinks.array_bytes import archive_bytes, read_archive, write_archive
from gcdl.errors import MessageError
from gcdl.protocol.ledger import Traffic
from gcdl.protocol.wire import HEADER_BYTES, Header, Kind, with_json
from gcdl.transport.mpi.backoff import Backoff
from gcdl.transport.mpi.job import CONTROL_BYTES
from gcdl.transport.mpi.messages_in import Body
from gcdl.types import Buffer, Mask, Weights, aligned_buffer

MASTERS_TAG = 8
"""Of the messages between masters: those of the workers go by another."""
DIGEST_BYTES = 16
_PIECE_BYTES = 1 << 26


class MasterChannel:
    """The way to another master. Methods raise MPI.Exception if it is gone.

    Parameters
    ----------
    comm, rank : where it is.
    run : the run's id.
    most_bytes : the largest body of a message.
    """

    def __init__(self, comm: MPI.Comm, rank: int, run: int, most_bytes: int) -> None:
        self._comm = comm
        self._rank = rank
        self._run = run
        self._inbox = aligned_buffer(HEADER_BYTES + max(most_bytes, CONTROL_BYTES))
        self._receiving = MPI.REQUEST_NULL
        self._status = MPI.Status()
        self._sends: list[tuple[MPI.Request, Buffer]] = []
        self.bytes = 0
        """Sent on this channel, headers included."""

    def send(self, kind: Kind, *, worker: int = 0, step: int = -1, loss: float = 0.0, body: Buffer | None = None) -> None:
        """Start sending a message; its body is copied."""
        size = 0 if body is None else body.size
        message = aligned_buffer(HEADER_BYTES + size)
        if body is not None:
            message[HEADER_BYTES:] = body
        Header(kind, self._run, worker, step, body_bytes=size, loss=loss).write(message)
        self._start(message)

    def send_json(self, kind: Kind, fields: dict[str, object]) -> None:
        """Start sending a message whose body is a JSON object."""
        self._start(with_json(kind, self._run, 0, fields))

    def send_arrays(self, arrays: Mapping[str, np.ndarray], step: int = -1) -> None:
        """Start sending arrays, as they are now."""
        archive = aligned_buffer(archive_bytes(arrays))
        write_archive(arrays, archive)
        self.send(Kind.ARRAYS, step=step, body=np.array([archive.size], dtype=np.int64).view(np.uint8))
        for start in range(0, archive.size, _PIECE_BYTES):
            self._start(archive[start : start + _PIECE_BYTES])

    def poll(self) -> tuple[Header, Buffer] | None:
        """Return the next message and its body, valid until the next call; None: there is none.

        Raises
        ------
        MessageError : it is none of this run's; it is dropped.
        """
        self._sends = [(request, kept) for request, kept in self._sends if not request.Test()]
        if self._receiving == MPI.REQUEST_NULL:
            self._receiving = self._comm.Irecv([self._inbox, MPI.BYTE], source=self._rank, tag=MASTERS_TAG)
        if not self._receiving.Test(self._status):
            return None
        header = Header.read(self._inbox, self._status.Get_count(MPI.BYTE), self._run)
        return header, self._inbox[HEADER_BYTES : HEADER_BYTES + header.body_bytes]

    def receive_arrays(self, announced: Buffer, look: Callable[[], None]) -> dict[str, np.ndarray]:
        """Return the arrays that an ARRAYS message with this body announces; ``look`` is called while waiting."""
        archive = aligned_buffer(int(announced[:8].view(np.int64)[0]))
        for start in range(0, archive.size, _PIECE_BYTES):
            piece = archive[start : start + _PIECE_BYTES]
            request = self._comm.Irecv([piece, MPI.BYTE], source=self._rank, tag=MASTERS_TAG)
            backoff = Backoff()
            while not request.Test():
                look()
                backoff.sleep()
        return read_archive(archive)

    def flush(self, seconds: float) -> None:
        """Wait until all that was sent has been taken, but not for longer than ``seconds``."""
        until = time.monotonic() + seconds
        backoff = Backoff()
        while self._sends and time.monotonic() < until:
            self._sends = [(request, kept) for request, kept in self._sends if not request.Test()]
            backoff.sleep()

    def _start(self, message: Buffer) -> None:
        self._sends.append((self._comm.Isend([message, MPI.BYTE], dest=self._rank, tag=MASTERS_TAG), message))
        self.bytes += message.size


def digest(payload: Buffer) -> Buffer:
    """Return DIGEST_BYTES bytes that differ where two payloads do."""
    return np.frombuffer(hashlib.blake2b(payload.data, digest_size=DIGEST_BYTES).digest(), dtype=np.uint8)


def note_bytes(blocks: int) -> int:
    """Return the most bytes that a HOLDS message has for a reply, of whose slice there are so many BLOCKs."""
    return 8 + DIGEST_BYTES + 16 * blocks


def holds_body(notes: Mapping[int, Buffer]) -> Buffer:
    """Return the body of a HOLDS message. ``notes``: by the sender's rank, all of one size."""
    ranks = np.array([len(notes), *notes], dtype=np.int64)
    return np.concatenate([ranks.view(np.uint8), *notes.values()])


def read_holds_body(body: Buffer) -> list[tuple[int, Buffer]]:
    """Return the senders' ranks and the notes on their replies, as copies.

    Raises
    ------
    MessageError : the body is not of this form.
    """
    count = int(body[:8].copy().view(np.int64)[0]) if body.size >= 8 else 0
    rest = body.size - 8 - 8 * count
    if count < 1 or rest < 0 or rest % count:
        raise MessageError(f"a HOLDS message with a body of {body.size} bytes")
    ranks = body[8 : 8 + 8 * count].copy().view(np.int64).tolist()
    return list(zip(ranks, body[8 + 8 * count :].reshape(count, -1).copy(), strict=True))


def decode_body(a: Weights, arrived: Mask) -> Buffer:
    """Return the body of a DECODE message."""
    return np.concatenate([a.view(np.uint8), arrived.view(np.uint8)])


def read_decode_body(body: Buffer) -> tuple[Weights, list[int]]:
    """Return a, (n,), and the workers that have arrived, ascending.

    Raises
    ------
    MessageError : the body is not of this form.
    """
    n, rest = divmod(body.size, 9)
    if rest:
        raise MessageError(f"a DECODE message with a body of {body.size} bytes")
    return body[: 8 * n].copy().view(np.float64), np.flatnonzero(body[8 * n :]).tolist()


def traffic_body(traffic: Traffic, before: Traffic) -> Buffer:
    """Return what was sent and received between two counts: the end of a DECODED or a TRAFFIC message."""
    parts = [
        (traffic.up - before.up).reshape(-1),
        (traffic.down - before.down).reshape(-1),
        traffic.resent - before.resent,
        np.array([traffic.shared - before.shared, traffic.control - before.control, traffic.foreign - before.foreign]),
    ]
    return np.concatenate(parts).astype(np.int64).view(np.uint8)


def add_traffic(body: Buffer, n: int, traffic: Traffic) -> None:
    """Add what :func:`traffic_body` holds, for n workers, to a count.

    Raises
    ------
    MessageError : the body is not of this form.
    """
    if body.size != 8 * (5 * n + 3):
        raise MessageError(f"traffic of {body.size} bytes for {n} workers")
    numbers = body.copy().view(np.int64)
    traffic.up += numbers[: 2 * n].reshape(n, 2)
    traffic.down += numbers[2 * n : 4 * n].reshape(n, 2)
    traffic.resent += numbers[4 * n : 5 * n]
    shared, control, foreign = numbers[5 * n :].tolist()
    traffic.shared += shared
    traffic.control += control
    traffic.foreign += foreign


def body_of(header: Header, body: Buffer) -> Body:
    """Return the JSON object in a message's body."""
    whole = aligned_buffer(HEADER_BYTES + body.size)
    whole[HEADER_BYTES:] = body
    return Body(header, whole)

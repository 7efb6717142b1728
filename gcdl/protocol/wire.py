"""Every message, to the byte. No I/O.

A message is a 64-byte header and a body::

    offset  size
    0       4     magic "GCDL"
    4       1     version
    5       1     kind
    6       2     1: the body has a checksum; else 0
    8       4     worker
    12      4     seconds of encoding (replies)
    16      4     step
    20      4     seconds of injected sleep after computing (replies)
    24      8     run id
    32      8     coded loss (replies); where the part begins (states)
    40      4     seconds of injected sleep before computing (replies)
    44      4     seconds of computing (replies)
    48      5     bytes in the body
    53      3     coordinates clipped, 2^24 - 1: so many or more (replies)
    56      4     CRC-32 of the body, if it has one
    60      4     CRC-32 of the 60 bytes before

Body of a TASK: the (n,) int64 step of each worker's last accepted reply, padded to 64 bytes; the (G,) float32 scales agreed
on, if the compressor has such, NaN in the first step, padded to 64 bytes; then what the downlink says (gcdl.downlinks). Body
of a REPLY: the compressor's payload. HELLO, READY, BYE and ERROR: JSON. STATE: a part of a compressor's state. LOAD: all of
one. The other kinds have no body. All little-endian.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import numpy as np

from gcdl.errors import MessageError
from gcdl.training.trace_events import Rows, rows_of
from gcdl.types import Buffer, IntVector, Vector, aligned_buffer, padded

HEADER_BYTES = 64
_VERSION = 3
_MOST_CLIPPED = (1 << 24) - 1
_BODY_BITS = 40
_MAGIC = b"GCDL"
_FIELDS = struct.Struct("<4sBBHIfifQdffQI")
_CHECKSUM = struct.Struct("<I")


class Kind(IntEnum):
    """What a message is."""

    TASK = 1
    """Master: compute the gradient at this model."""
    SUPERSEDED = 2
    """Master: the task before this message is out of date, a newer one follows; do not start on it."""
    STOP = 3
    """Master: say BYE and leave."""
    READY = 4
    """Worker: data loaded."""
    REPLY = 5
    """Worker: a compressed coded gradient."""
    ERROR = 6
    """Worker: it raised."""
    BYE = 7
    """Worker: nothing more will come."""
    END = 8
    """Master: the very last message. Step 0: finalize MPI together; step 1: it is damaged, leave without."""
    SAVE = 9
    """Master: send your compressor's state as of ``step``, the last one decoded with your reply."""
    STATE = 10
    """Worker: its compressor's state as of the header's step."""
    LOAD = 11
    """Master: begin with this state of your compressor."""
    ADOPT = 12
    """Master, to a spare rank or a replacement: be ``worker`` from now on; ``step`` is the next to come."""
    HELLO = 13
    """Any other rank, its first message: its host and process."""
    LACKING = 14
    """Worker: it could not take in what the task of ``step`` brings, and says which version of the model it has."""
    POST = 15
    """Master: put the content of the next task on your board, under the number ``step`` (gcdl.transport.mpi.shared_memory)."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first 64 bytes of a message."""

    kind: Kind
    run: int
    worker: int = 0
    step: int = -1
    loss: float = 0.0
    slept: float = 0.0
    computed: float = 0.0
    body_bytes: int = 0
    held: float = 0.0
    encoded: float = 0.0
    clipped: int = 0

    def write(self, buffer: Buffer, *, checksum: bool = False) -> None:
        """Write this header to the start of ``buffer``, which holds the body already where that gets a ``checksum``."""
        body = zlib.crc32(buffer[HEADER_BYTES : HEADER_BYTES + self.body_bytes].data) if checksum else 0
        fields = _FIELDS.pack(
            _MAGIC, _VERSION, self.kind, checksum, self.worker, self.encoded, self.step, self.held, self.run,
            self.loss, self.slept, self.computed, self.body_bytes | min(self.clipped, _MOST_CLIPPED) << _BODY_BITS, body,
        )  # fmt: skip
        buffer[:HEADER_BYTES] = np.frombuffer(fields + _CHECKSUM.pack(zlib.crc32(fields)), dtype=np.uint8)

    @classmethod
    def read(cls, buffer: Buffer, received: int, run: int) -> Header:
        """Read and check the header of a message of ``received`` bytes.

        Raises
        ------
        MessageError : too short, no gcdl message, altered, of another version or run, or of another length than it says.
        """
        if received < HEADER_BYTES:
            raise MessageError(f"a message of {received} bytes is shorter than a header")
        head = buffer[:HEADER_BYTES].tobytes()
        (
            magic,
            version,
            kind,
            checksum,
            worker,
            encoded,
            step,
            held,
            its_run,
            loss,
            slept,
            computed,
            sizes,
            body,
        ) = _FIELDS.unpack(head[: _FIELDS.size])
        if magic != _MAGIC:
            raise MessageError("a message that is not gcdl's")
        if _CHECKSUM.unpack(head[_FIELDS.size :])[0] != zlib.crc32(head[: _FIELDS.size]):
            raise MessageError("a message whose header was altered on the way")
        if version != _VERSION:
            raise MessageError(f"a message of version {version}; this is version {_VERSION}")
        if its_run != run:
            raise MessageError("a message of another run")
        body_bytes, clipped = sizes & ((1 << _BODY_BITS) - 1), sizes >> _BODY_BITS
        if received != HEADER_BYTES + body_bytes:
            raise MessageError(f"a message of {received} bytes that should have {HEADER_BYTES + body_bytes}")
        if checksum and zlib.crc32(buffer[HEADER_BYTES:received].data) != body:
            raise MessageError("a message whose body was altered on the way")
        try:
            kind = Kind(kind)
        except ValueError:
            raise MessageError(f"a message of unknown kind {kind}") from None
        return cls(kind, run, worker, step, loss, slept, computed, body_bytes, held, encoded, clipped)


class Content(Protocol):
    """What a task carries to bring a worker's model up to date; see :mod:`gcdl.downlinks`."""

    version: int
    """The version of the model that it leads to."""
    whole: Buffer | None
    """All of it, where it is the same for every worker; None where it depends on what the worker has."""

    def nbytes(self, base: int) -> int:
        """Return its bytes for a worker that has version ``base`` of the model; -1: none."""
        ...

    def write(self, base: int, into: Buffer) -> None:
        """Write it, (nbytes(base),)."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Task:
    """Compute the coded gradient of step ``step`` at ``model``, (d,).

    ``accepted``, (n,): the last step decoded with each worker's reply, -1 for none yet. ``agreed``, (G,): the scales that the
    workers agreed on, if they do. ``content``: what a worker elsewhere has to be sent for it to have the model.
    """

    step: int
    accepted: IntVector
    model: Vector
    agreed: Vector | None = None
    content: Content | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Reply:
    """Worker ``worker``'s compressed coded gradient of step ``step``, and its coded loss.

    ``message`` is the whole message, its payload starting at HEADER_BYTES. Seconds that its worker spent: ``slept`` (injected,
    before computing), ``computed``, ``held`` (injected, after it), ``encoded``.
    """

    worker: int
    step: int
    loss: float
    message: Buffer
    slept: float = 0.0
    computed: float = 0.0
    held: float = 0.0
    encoded: float = 0.0
    clipped: int = 0
    """Coordinates that lay beyond the scale agreed on."""
    corrupt: bool = False
    """A fault: bits are to be flipped on the way."""

    @property
    def payload(self) -> Buffer:
        """The compressor's bytes."""
        return self.message[HEADER_BYTES:]


@dataclass(frozen=True, eq=False, slots=True)
class Replies:
    """Replies that a transport hands over together, in the order they came: their table, and their messages beside it.

    ``messages`` is empty where a transport moves no data.
    """

    rows: Rows
    messages: Sequence[Buffer]

    @classmethod
    def of(cls, reply: Reply, received: float) -> Replies:
        """Return one reply, which came at ``received``."""
        rows = rows_of(1)
        rows[0] = (
            reply.worker, reply.step, received, reply.loss, reply.slept, reply.computed, reply.held, reply.encoded,
            reply.clipped,
        )  # fmt: skip
        return cls(rows, [reply.message])


@dataclass(frozen=True, eq=False, slots=True)
class WorkerState:
    """Worker ``worker``'s compressor state, (state_bytes,) uint8, as of ``accepted``, its last decoded step; or a part of it.

    ``offset``: where in the state ``saved`` begins. Parts come in their order.
    """

    worker: int
    accepted: int
    saved: Buffer
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Joined:
    """A spare rank has taken a lost worker's place, and has loaded its data."""

    worker: int
    name: str


class Brought(NamedTuple):
    """What a task message brings a worker, as views of it."""

    accepted: IntVector
    agreed: Vector | None
    content: Buffer


class TaskFormat:
    """How tasks for n workers lie in memory, ``scales`` of them agreed on; ``checksums``: their bodies get one."""

    def __init__(self, n: int, scales: int = 0, *, checksums: bool = False) -> None:
        self.checksums = checksums
        self._scales = scales
        self._accepted = slice(HEADER_BYTES, HEADER_BYTES + 8 * n)
        start = HEADER_BYTES + padded(8 * n)
        self._agreed = slice(start, start + 4 * scales)
        self.overhead_bytes = start + padded(4 * scales)
        """All but the content."""

    def nbytes(self, task: Task, base: int) -> int:
        """Return the bytes of a task's message to a worker that has version ``base`` of the model."""
        assert task.content is not None
        return self.overhead_bytes + task.content.nbytes(base)

    def write(self, task: Task, run: int, base: int, buffer: Buffer) -> None:
        """Write a task into a buffer of ``nbytes(task, base)`` bytes."""
        assert task.content is not None
        task.content.write(base, buffer[self.overhead_bytes :])
        self.write_overhead(task, run, buffer)

    def write_overhead(self, task: Task, run: int, buffer: Buffer) -> None:
        """Write all but the content, which is there already."""
        buffer[HEADER_BYTES : self.overhead_bytes] = 0
        buffer[self._accepted].view(np.int64)[:] = task.accepted
        if self._scales:
            buffer[self._agreed].view(np.float32)[:] = np.nan if task.agreed is None else task.agreed
        header = Header(Kind.TASK, run, step=task.step, body_bytes=buffer.size - HEADER_BYTES)
        header.write(buffer, checksum=self.checksums)

    def read(self, header: Header, buffer: Buffer) -> Brought:
        """Return what the task in an (aligned) buffer brings.

        Raises
        ------
        MessageError : it is too short for a task.
        """
        if HEADER_BYTES + header.body_bytes < self.overhead_bytes:
            raise MessageError(f"a task of {header.body_bytes} bytes where {self.overhead_bytes - HEADER_BYTES} are the least")
        agreed = buffer[self._agreed].view(np.float32)
        content = buffer[self.overhead_bytes : HEADER_BYTES + header.body_bytes]
        known = bool(self._scales) and not np.isnan(agreed[0])
        return Brought(buffer[self._accepted].view(np.int64), agreed if known else None, content)


def bare(kind: Kind, run: int, *, worker: int = 0, step: int = -1) -> Buffer:
    """Return a message without a body."""
    buffer = aligned_buffer(HEADER_BYTES)
    Header(kind, run, worker, step).write(buffer)
    return buffer


def with_state(run: int, state: WorkerState) -> Buffer:
    """Return the LOAD message that hands a worker its state."""
    buffer = aligned_buffer(HEADER_BYTES + state.saved.size)
    buffer[HEADER_BYTES:] = state.saved
    Header(Kind.LOAD, run, state.worker, state.accepted, body_bytes=state.saved.size).write(buffer, checksum=True)
    return buffer


def with_json(kind: Kind, run: int, worker: int, body: dict[str, Any], *, step: int = -1) -> Buffer:
    """Return a message whose body is a JSON object."""
    text = np.frombuffer(json.dumps(body).encode(), dtype=np.uint8)
    buffer = aligned_buffer(HEADER_BYTES + text.size)
    buffer[HEADER_BYTES:] = text
    Header(kind, run, worker, step, body_bytes=text.size).write(buffer, checksum=True)
    return buffer


def read_json(header: Header, buffer: Buffer) -> dict[str, Any]:
    """Return the JSON object in a message's body.

    Raises
    ------
    MessageError : the body is not JSON.
    """
    try:
        body = json.loads(buffer[HEADER_BYTES : HEADER_BYTES + header.body_bytes].tobytes())
    except ValueError as error:
        raise MessageError(f"a {header.kind.name} message whose body is not JSON") from error
    if not isinstance(body, dict):
        raise MessageError(f"a {header.kind.name} message whose body is not an object")
    return body

"""Every message, to the byte. No I/O.

A message is a 64-byte header and a body::

    offset  size
    0       4     magic "GCDL"
    4       1     version
    5       1     kind
    6       2     worker
    8       4     step
    12      4     coordinates clipped, 2^32 - 1: so many or more (replies); number of the code that holds (tasks)
    16      8     run id
    24      8     bytes in the body
    32      8     coded loss, float64 (replies); where the part begins in the state, int64 (states)
    40      4     seconds of injected sleep before computing (replies)
    44      4     seconds of computing (replies)
    48      4     seconds of injected sleep after computing (replies)
    52      4     seconds of encoding (replies)
    56      4     CRC-32 of the body; 0: the body has none
    60      4     CRC-32 of the 60 bytes before

Body of a TASK: :mod:`gcdl.protocol.task_format`. Body of a REPLY: the compressor's payload. HELLO, READY, BYE and ERROR: JSON.
EVALUATED: (pieces, columns) float64.
STATE: a part of a compressor's state. LOAD: all of one. RECODE: :mod:`gcdl.protocol.coding`. What masters tell each other:
:mod:`gcdl.transport.mpi.master_channel`. The other kinds have no body. All little-endian.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from gcdl.errors import MessageError
from gcdl.types import Buffer, Sums, aligned_buffer

HEADER_BYTES = 64
_VERSION = 4
_KIND_AT = 5
_MOST_CLIPPED = (1 << 32) - 1
_MAGIC = b"GCDL"
_FIELDS = struct.Struct("<4sBBHiIQQdffffI")
_FIELDS_OF_STATE = struct.Struct("<4sBBHiIQQqffffI")
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
    HOLDS = 16
    """Slice master, to rank 0: it has its slices of some replies to this step."""
    BEGIN = 17
    """Rank 0, to a slice master: send the tasks of ``step``, the first of this part of the run."""
    DECODE = 18
    """Rank 0, to a slice master: decode the replies to ``step`` with these weights."""
    DECODED = 19
    """Slice master: it has decoded ``step``; the squared norms of its BLOCKs, and what it sent and received since the last."""
    STEP = 20
    """Rank 0, to a slice master: take the optimizer's step; ``loss`` is the norm of the whole gradient."""
    COLLECT = 21
    """Rank 0, to a slice master: send the arrays of your slice. ``step`` 0: the parameters; 1: the states beside them."""
    ARRAYS = 22
    """A master, to another: so many bytes of arrays follow, in messages without a header."""
    TRAFFIC = 23
    """Slice master: its workers have stopped; what it sent and received since the last DECODED. Its last message."""
    PING = 24
    """Rank 0, to a slice master that has long said nothing: answer."""
    PONG = 25
    """Slice master: it is there."""
    RECODE = 26
    """Master: load the shards of this row of the code; it holds from the first task on that has this number, ``step``."""
    LOADED = 27
    """Worker: it has loaded its row of the code that has the number ``step``."""
    EVALUATED = 28
    """Worker: the sums of its pieces of the test set, of the model that the task of ``step`` brought."""
    POST = 15
    """Master: put the content of the next task on your board, under the number ``step`` (gcdl.transport.mpi.shared_memory)."""


_KINDS = {int(kind): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Header:
    """The first 64 bytes of a message.

    Attributes
    ----------
    kind, run, worker, step : as in the table above.
    body_bytes : the size of the body.
    loss : the coded loss of a reply.
    slept, computed, held, encoded : seconds of a reply's parts; see :class:`gcdl.protocol.tasks.Reply`.
    clipped : coordinates of a reply that lay beyond the scale agreed on; of a task, see :attr:`coding`.
    offset : where the body of a STATE message begins in the whole state, in bytes.
    """

    kind: Kind
    run: int
    worker: int = 0
    step: int = -1
    body_bytes: int = 0
    loss: float = 0.0
    slept: float = 0.0
    computed: float = 0.0
    held: float = 0.0
    encoded: float = 0.0
    clipped: int = 0
    offset: int = 0

    @property
    def coding(self) -> int:
        """Of a task: the number of the code that holds. It lies where a reply has ``clipped``."""
        return self.clipped

    def write(self, buffer: Buffer, *, checksum: bool = False) -> None:
        """Write this header to the start of ``buffer``. With ``checksum`` the body must be there already."""
        is_state = self.kind is Kind.STATE
        fields = (_FIELDS_OF_STATE if is_state else _FIELDS).pack(
            _MAGIC,
            _VERSION,
            self.kind,
            self.worker,
            self.step,
            min(self.clipped, _MOST_CLIPPED),
            self.run,
            self.body_bytes,
            self.offset if is_state else self.loss,
            self.slept,
            self.computed,
            self.held,
            self.encoded,
            zlib.crc32(buffer[HEADER_BYTES : HEADER_BYTES + self.body_bytes].data) if checksum else 0,
        )
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
        fields = (_FIELDS_OF_STATE if head[_KIND_AT] == Kind.STATE else _FIELDS).unpack_from(head)
        magic, version, number, worker, step, clipped, its_run, body_bytes, loss_or_offset = fields[:9]
        slept, computed, held, encoded, body_crc = fields[9:]
        if magic != _MAGIC:
            raise MessageError("a message that is not gcdl's")
        if _CHECKSUM.unpack_from(head, _FIELDS.size)[0] != zlib.crc32(head[: _FIELDS.size]):
            raise MessageError("a message whose header was altered on the way")
        if version != _VERSION:
            raise MessageError(f"a message of version {version}; this is version {_VERSION}")
        if its_run != run:
            raise MessageError("a message of another run")
        if received != HEADER_BYTES + body_bytes:
            raise MessageError(f"a message of {received} bytes that should have {HEADER_BYTES + body_bytes}")
        if body_crc and zlib.crc32(buffer[HEADER_BYTES:received].data) != body_crc:
            raise MessageError("a message whose body was altered on the way")
        kind = _KINDS.get(number)
        if kind is None:
            raise MessageError(f"a message of unknown kind {number}")
        loss, offset = (0.0, loss_or_offset) if kind is Kind.STATE else (loss_or_offset, 0)
        return cls(kind, run, worker, step, body_bytes, loss, slept, computed, held, encoded, clipped, offset)


def is_of_kind(buffer: Buffer, kind: Kind) -> bool:
    """Say whether the message in ``buffer`` says that it is of this kind. It is not checked."""
    return int(buffer[_KIND_AT]) == kind


def bare(kind: Kind, run: int, *, worker: int = 0, step: int = -1) -> Buffer:
    """Return a message without a body."""
    buffer = aligned_buffer(HEADER_BYTES)
    Header(kind, run, worker, step).write(buffer)
    return buffer


def with_body(kind: Kind, run: int, worker: int, step: int, body: Buffer, *, offset: int = 0) -> Buffer:
    """Return a message with a copy of this body, under a checksum."""
    buffer = aligned_buffer(HEADER_BYTES + body.size)
    buffer[HEADER_BYTES:] = body
    Header(kind, run, worker, step, body_bytes=body.size, offset=offset).write(buffer, checksum=True)
    return buffer


def with_state(run: int, worker: int, accepted: int, state: Buffer) -> Buffer:
    """Return the LOAD message that hands a worker its compressor's state, (state_bytes,), as of the step ``accepted``."""
    return with_body(Kind.LOAD, run, worker, accepted, state)


def with_sums(run: int, worker: int, step: int, sums: Sums) -> Buffer:
    """Return the EVALUATED message with the sums of a worker's pieces, (pieces, columns)."""
    return with_body(Kind.EVALUATED, run, worker, step, sums.reshape(-1).view(np.uint8))


def with_json(kind: Kind, run: int, worker: int, body: dict[str, Any], *, step: int = -1) -> Buffer:
    """Return a message whose body is a JSON object."""
    return with_body(kind, run, worker, step, np.frombuffer(json.dumps(body).encode(), dtype=np.uint8))


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

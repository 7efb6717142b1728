"""How a task lies in memory: header, last accepted steps, agreed scales, content.

After the header come the (n,) int64 step of each worker's last accepted reply, -1 for none, padded to 64 bytes; the (G,)
float32 scales agreed on, if the compressor has such, NaN in the first step, padded to 64 bytes; and the downlink's content
(:mod:`gcdl.downlinks`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gcdl.errors import MessageError
from gcdl.protocol.tasks import Task
from gcdl.protocol.wire import HEADER_BYTES, Header, Kind
from gcdl.types import Buffer, IntVector, Vector, padded


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
        header = Header(Kind.TASK, run, step=task.step, body_bytes=buffer.size - HEADER_BYTES, clipped=task.coding)
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

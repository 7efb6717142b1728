"""Keeps the updates of the last versions, as long as they take less than a snapshot, and writes what a task carries.

::

    offset  size
    0       8     the version that this leads on from; -1: none, it is a snapshot
    8       8     the version that it leads to
    16      8     updates that follow
    24      8     1: the model's hash is here
    32      8     hash of the model that it leads to
    64            the updates; or the parameters, (d,) float32, padded to 64, and the optimizer's state

A worker that missed some versions gets their updates together, or a snapshot where that is smaller.
"""

from __future__ import annotations

import itertools
import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from gcdl.downlinks.array_bytes import archive_bytes, write_archive
from gcdl.downlinks.base import HASH_BYTES, UNKNOWN, fingerprint
from gcdl.types import Buffer, Vector, aligned_buffer, padded

HEAD_BYTES = 64
_SIZES = 16
_HEAD = struct.Struct(f"<qqqq{HASH_BYTES}s")


class Head(NamedTuple):
    """The first bytes of a content."""

    base: int
    version: int
    updates: int
    hashed: int
    hash: bytes

    @classmethod
    def read(cls, content: Buffer) -> Head:
        """Return the head of a content."""
        return cls(*_HEAD.unpack(content[: _HEAD.size].tobytes()))


class UpdateLog:
    """The content of tasks where workers hold replicas.

    Parameters
    ----------
    parameters : (d,), the newest version of the model; changes in place.
    state : returns the optimizer's arrays that a snapshot needs.
    limit : the most bytes that a snapshot can take: the oldest updates are forgotten when all take more together.
    check_every : versions between hashes; 0: none.
    version : the newest.
    """

    def __init__(
        self,
        parameters: Vector,
        state: Callable[[], Mapping[str, np.ndarray]],
        *,
        limit: int,
        check_every: int,
        version: int = 0,
    ) -> None:
        self.version = version
        self.whole: Buffer | None = None  # the content depends on the worker's version
        self._parameters = parameters
        self._state = state
        self._limit = limit
        self._check_every = check_every
        self._updates: deque[Buffer] = deque()
        """In order; the last one leads to ``version``, the one before it to ``version`` - 1."""
        self._bytes = 0
        self._spare: dict[int, list[Buffer]] = {}
        self._hashed = UNKNOWN
        self._hash = b""
        self._measured = 0
        """Bytes of a snapshot, once they are known."""
        self._first_step = True

    def take(self, nbytes: int) -> Buffer:
        """Return a buffer for an update; those of forgotten updates are used again."""
        spare = self._spare.get(nbytes)
        return spare.pop() if spare else aligned_buffer(nbytes)

    def append(self, update: Buffer | None) -> None:
        """Add the update from the newest version to the next; None: only a snapshot leads there."""
        self.version += 1
        if update is None:
            self._forget(len(self._updates))
            return
        self._updates.append(update)
        self._bytes += update.size
        excess = 0
        left = self._bytes
        for old in self._updates:
            if left <= self._limit:
                break
            left -= old.size
            excess += 1
        self._forget(excess)

    def restart(self, version: int) -> None:
        """Forget everything: the parameters are those of ``version`` now."""
        self._forget(len(self._updates))
        self.version = version
        self._hashed = UNKNOWN

    def nbytes(self, base: int) -> int:
        """Return the bytes of the content for a worker that has version ``base``."""
        missed = self._since(base)
        return HEAD_BYTES + (self._snapshot_bytes() if missed is None else sum(update.size for update in missed))

    def write(self, base: int, into: Buffer) -> None:
        """Write the content for a worker that has version ``base``, (nbytes(base),)."""
        missed = self._since(base)
        hashed = bool(self._check_every) and self.version % self._check_every == 0
        head = _HEAD.pack(
            UNKNOWN if missed is None else base, self.version, len(missed or ()), hashed, self._fingerprint() if hashed else b""
        )
        into[: _HEAD.size] = np.frombuffer(head, dtype=np.uint8)
        into[_HEAD.size : HEAD_BYTES] = 0
        start = HEAD_BYTES
        if missed is None:
            into[start : start + self._parameters.nbytes] = self._parameters.view(np.uint8)
            write_archive(self._state(), into[start + padded(self._parameters.nbytes) :])
            return
        for update in missed:
            into[start : start + update.size] = update
            start += update.size

    def _since(self, base: int) -> list[Buffer] | None:
        """Return the updates that lead from a version to the newest; None if a snapshot is needed, or smaller."""
        missed = self.version - base
        if base == UNKNOWN or missed > len(self._updates):
            return None
        updates = list(itertools.islice(self._updates, len(self._updates) - missed, None))
        return updates if sum(update.size for update in updates) <= self._snapshot_bytes() else None

    def _snapshot_bytes(self) -> int:
        if not self._measured or self._first_step:
            self._measured = padded(self._parameters.nbytes) + archive_bytes(self._state())
            self._first_step = self.version == 0  # the optimizer has no state before its first step
        return self._measured

    def _forget(self, count: int) -> None:
        for _ in range(count):
            update = self._updates.popleft()
            self._bytes -= update.size
            self._spare.setdefault(update.size, []).append(update)
            if len(self._spare) > _SIZES:  # sizes that do not come again
                self._spare.clear()

    def _fingerprint(self) -> bytes:
        if self._hashed != self.version:
            self._hashed, self._hash = self.version, fingerprint(self._parameters)
        return self._hash

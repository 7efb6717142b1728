"""Boards: shared memory in which the processes of a host read what one of them has received.

A board is an anonymous file in memory (``memfd_create``). Others open it by way of its owner's entry in /proc. So it has no
name that could be left behind, takes nothing of /dev/shm, and is gone with the last process that maps it. The master has a
board for the workers of its host. On another host one idle worker receives a task's content and puts it on its own board for
the others. Their tasks then have a reference for content:

::

    offset  size
    0       8     -2: a reference (no content begins so)
    8       8     number of the content
    16      8     bytes of the content
    24      8     process id of the owner
    32      8     its file descriptor
    40      8     token of the board
    48      8     bytes of a slot

A board has a head and S slots. Content m lies in slot m modulo S:

::

    offset  size
    0       8     token
    64 i    8     number of what slot i - 1 holds, -1 while it is written (i = 1, 2, ...)
    4096          the slots

Readers are other processes, so the order of stores matters: the number must not be seen before the content. x86 keeps the order
of stores, other processors need not. So the writer has a barrier before and after it writes the content, and the reader has one
after it has looked at the number (:func:`_barrier`).

A slot is written again for a later step only. A worker that still computes at its model then is too late anyway: the slot's
number tells it, and it sends no reply. A worker that cannot read a board, or finds nothing on it in time, says so, and is sent
the content itself.
"""

from __future__ import annotations

import mmap
import os
import secrets
import stat
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gcdl.types import Buffer, padded

REFERENCE_BYTES = 64
_MARK = -2
_SLOTS = 3
_HEAD = 4096
_LOCK = threading.Lock()


class Address(NamedTuple):
    """Where another process of the same host finds a board."""

    pid: int
    fd: int
    token: int
    slot_bytes: int

    def refer(self, number: int, nbytes: int, into: Buffer) -> None:
        """Write a reference to a content that is on the board, or will be, (REFERENCE_BYTES,)."""
        into[:] = 0
        into.view(np.int64)[:7] = _MARK, number, nbytes, *self


class Reference(NamedTuple):
    """What a task's content refers to."""

    number: int
    nbytes: int
    address: Address

    @classmethod
    def read(cls, content: Buffer) -> Reference | None:
        """Return the reference; None: this is the content itself."""
        if content.size != REFERENCE_BYTES:
            return None
        mark, number, nbytes, *address = content.view(np.int64)[:7].tolist()
        return cls(number, nbytes, Address(*address)) if mark == _MARK else None


class Board:
    """A process's own board.

    Parameters
    ----------
    slot_bytes : the most that a content takes. Memory is taken only by what is written.

    Raises
    ------
    OSError : there is no memory for it, or no such files on this system.
    """

    def __init__(self, slot_bytes: int) -> None:
        file = os.memfd_create("gcdl-board", os.MFD_CLOEXEC)
        size = _HEAD + _SLOTS * padded(slot_bytes)
        os.ftruncate(file, size)
        self._memory = np.frombuffer(mmap.mmap(file, size), dtype=np.uint8)
        self.address = Address(os.getpid(), file, secrets.randbits(62), slot_bytes)
        self._memory[:8].view(np.int64)[0] = self.address.token

    def put(self, number: int, content: Buffer) -> None:
        """Write a content, (at most slot_bytes,), under a number: larger than any before."""
        now, slot = _slot(self._memory, number, self.address.slot_bytes)
        now[0] = -1
        _barrier()
        slot[: content.size] = content
        _barrier()
        now[0] = number


@dataclass(frozen=True, eq=False)
class Posted:
    """A content on a board; it may be overwritten, see :meth:`intact`."""

    content: Buffer
    _now: np.ndarray[Any, np.dtype[np.int64]]
    _number: int

    def intact(self) -> bool:
        """Say whether it is still there: what was read of it before is right then."""
        _barrier()
        there = int(self._now[0]) == self._number
        _barrier()
        return there


class Boards:
    """The boards of others that this process reads."""

    def __init__(self) -> None:
        self._open: dict[Address, Buffer] = {}

    def find(self, reference: Reference) -> Posted | None:
        """Return what is referred to; None: it is not there yet.

        Raises
        ------
        OSError : this process can't open the board, or it is another one.
        """
        memory = self._open.get(reference.address)
        if memory is None:
            memory = self._open[reference.address] = _map(reference.address)
        now, slot = _slot(memory, reference.number, reference.address.slot_bytes)
        posted = Posted(slot[: reference.nbytes], now, reference.number)
        return posted if posted.intact() else None


def _barrier() -> None:
    """Keep loads and stores before this call from being seen after those that follow it, on any processor.

    Releasing a lock keeps what comes before it before; taking one keeps what comes after it after. So one lock, released and
    taken again, is a barrier both ways.
    """
    with _LOCK:
        pass
    with _LOCK:
        pass


def _map(address: Address) -> Buffer:
    size = _HEAD + _SLOTS * padded(address.slot_bytes)
    file = os.open(f"/proc/{address.pid}/fd/{address.fd}", os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            raise OSError("it is no board")
        # Read-only: a private copy of a page that was written here would never show a later model.
        memory = np.frombuffer(mmap.mmap(file, size, access=mmap.ACCESS_READ), dtype=np.uint8)
    finally:
        os.close(file)
    if int(memory[:8].view(np.int64)[0]) != address.token:
        raise OSError("it is another one")
    return memory


def _slot(memory: Buffer, number: int, slot_bytes: int) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Buffer]:
    """Return the slot of a content's number, and the number of the content that lies in it now, (1,)."""
    slot = number % _SLOTS
    start = _HEAD + slot * padded(slot_bytes)
    return memory[64 * (slot + 1) : 64 * (slot + 1) + 8].view(np.int64), memory[start : start + slot_bytes]

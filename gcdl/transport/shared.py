"""The master's board: memory in which the workers of its host read the whole model, so that one copy serves them all.

An anonymous file in memory (``memfd_create``), which the others open by way of the master's entry in /proc: it has no name
that could be left behind, takes nothing of /dev/shm, and is gone with the last process that maps it. A process that can't
open it, or finds another run's there, is sent its models as messages.

The model of a task is put into the next of a few slots; the task refers to it. A slot is written again only when the step it
was made for is over for long: a worker that still computes at it is too late, whatever it reads there. It sees that by the
slot's number, and keeps silent.

::

    offset  size
    0       8     token
    64 i    8     number of what slot i - 1 holds, -1 while it is written (i = 1, 2, ...)
    4096          the slots
"""

from __future__ import annotations

import mmap
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from gcdl.types import Buffer, padded

REFERENCE_BYTES = 64
"""The content of a task that refers to the board: slot, number, bytes; int64."""
_MARK = -2  # no content begins with it: see gcdl.downlinks.log
_SLOTS = 3
_HEAD = 4096


class Board:
    """The master's end.

    Parameters
    ----------
    nbytes : of a model.

    Raises
    ------
    OSError : there is no memory for it.
    """

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._file = os.memfd_create("gcdl-model", os.MFD_CLOEXEC)
        size = _HEAD + _SLOTS * padded(nbytes)
        os.ftruncate(self._file, size)
        self._memory = np.frombuffer(mmap.mmap(self._file, size), dtype=np.uint8)
        self._token = secrets.randbits(62)
        self._memory[:8].view(np.int64)[0] = self._token
        self._puts = 0

    @property
    def address(self) -> dict[str, Any]:
        """Where another process of this host finds it, JSON-ready."""
        return {"pid": os.getpid(), "fd": self._file, "token": self._token, "nbytes": self._nbytes}

    def put(self, model: Buffer, reference: Buffer) -> None:
        """Write a model, (nbytes,), and a reference to it, (REFERENCE_BYTES,)."""
        slot = self._puts % _SLOTS
        number = _number(self._memory, slot)
        number[0] = -1
        start = _HEAD + slot * padded(self._nbytes)
        self._memory[start : start + self._nbytes] = model
        number[0] = self._puts
        reference[:] = 0
        reference.view(np.int64)[:3] = _MARK, slot, self._puts
        self._puts += 1

    def close(self) -> None:
        """Let go of the file; those who map it keep it."""
        with suppress(OSError):
            os.close(self._file)


@dataclass(frozen=True, eq=False)
class Posted:
    """A model on the board: ``model``, (nbytes,), is what is there now; see :meth:`intact`."""

    model: Buffer
    _number_now: np.ndarray
    _number: int

    def intact(self) -> bool:
        """Say whether it is still the model that was put there."""
        return int(self._number_now[0]) == self._number


class Reader:
    """A worker's end.

    Parameters
    ----------
    address : what :attr:`Board.address` was.

    Raises
    ------
    OSError : this process can't open it, or it is another one.
    """

    def __init__(self, address: dict[str, Any]) -> None:
        self._nbytes = int(address["nbytes"])
        size = _HEAD + _SLOTS * padded(self._nbytes)
        file = os.open(f"/proc/{int(address['pid'])}/fd/{int(address['fd'])}", os.O_RDONLY)
        try:
            if os.fstat(file).st_size != size:
                raise OSError("the file is not the master's board")
            self._memory = np.frombuffer(mmap.mmap(file, size, prot=mmap.PROT_READ), dtype=np.uint8)
        finally:
            os.close(file)
        if int(self._memory[:8].view(np.int64)[0]) != int(address["token"]):
            raise OSError("the board is another run's")

    def posted(self, content: Buffer) -> Posted | None:
        """Return the model that a task's content refers to; None if it is no reference."""
        if content.size != REFERENCE_BYTES:
            return None
        mark, slot, number = content.view(np.int64)[:3].tolist()
        if mark != _MARK:
            return None
        start = _HEAD + slot * padded(self._nbytes)
        return Posted(self._memory[start : start + self._nbytes], _number(self._memory, slot), number)


def _number(memory: Buffer, slot: int) -> np.ndarray:
    return memory[64 * (slot + 1) : 64 * (slot + 1) + 8].view(np.int64)

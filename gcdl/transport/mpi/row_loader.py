"""A worker loads the shards of another row of the code in a thread, while it goes on with its tasks."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from gcdl.errors import TooManyLost
from gcdl.problems import CodedGradient
from gcdl.protocol.coding import CodeRow
from gcdl.protocol.worker import Worker


class LoadedRow(NamedTuple):
    """A row of code ``number`` whose shards are there; ``fresh``: the compressor begins afresh with it."""

    number: int
    gradient: Callable[[], CodedGradient]
    fresh: bool


@dataclass(eq=False)
class _Request:
    number: int
    row: CodeRow
    fresh: bool
    gradient: Callable[[], CodedGradient] | None = None
    error: BaseException | None = None


class RowLoader:
    """Loads one row after another, for ``worker``."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._asked: deque[_Request] = deque()
        """The first one is being loaded by ``_thread``."""
        self._thread: threading.Thread | None = None

    def begin(self, number: int, row: CodeRow, *, fresh: bool) -> None:
        """Load a row; :meth:`look` returns it."""
        self._asked.append(_Request(number, row, fresh))

    def look(self) -> LoadedRow | None:
        """Return a row whose shards have been loaded, if there is one. Never blocks.

        Raises
        ------
        TooManyLost : they can't be had.
        """
        if not self._asked:
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=self._load, args=(self._asked[0],), name="load shards", daemon=True)
            self._thread.start()
        if self._thread.is_alive():
            return None
        self._thread = None
        request = self._asked.popleft()
        if request.gradient is None:
            shards = ", ".join(map(str, request.row.shards.tolist()))
            raise TooManyLost(f"the shards of lost workers can't be loaded ({shards}): {request.error}") from request.error
        return LoadedRow(request.number, request.gradient, request.fresh)

    def _load(self, request: _Request) -> None:
        try:
            request.gradient = self.worker.load_row(request.row)
        except BaseException as error:
            request.error = error

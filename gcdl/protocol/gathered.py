"""The replies of one step, as they are gathered."""

from __future__ import annotations

import numpy as np

from gcdl.protocol.measurements import Rows, rows_of
from gcdl.protocol.tasks import Replies
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.types import Buffer, Mask


class Gathered:
    """Replies from some of n workers.

    Attributes
    ----------
    arrived : (n,) who has replied to this step.
    late : replies to earlier steps, which came meanwhile and were dropped.
    joined : workers whose place another process took after their reply had arrived.
    timed_out : the step ended at [wait] timeout, with fewer replies than the rule asks for.
    """

    def __init__(self, n: int) -> None:
        self.arrived: Mask = np.zeros(n, dtype=bool)
        self.late: Rows = rows_of(0)
        self.joined: list[int] = []
        self.timed_out = False
        self._table = rows_of(n)
        """The reply of each worker that has arrived."""
        self._messages: dict[int, Buffer] = {}

    def take(self, replies: Replies, step: int) -> None:
        """Keep the replies to this step; count all others as late."""
        rows, messages = replies.rows, replies.messages
        workers = rows["worker"]
        fresh = (rows["step"] == step) & ~self.arrived[workers]
        if not fresh.all():
            self.late = np.concatenate([self.late, rows[~fresh]])
            messages = [messages[i] for i in np.flatnonzero(fresh).tolist()] if messages else messages
            rows = rows[fresh]
            workers = rows["worker"]
        self.arrived[workers] = True
        self._table[workers] = rows
        self._messages.update(zip(workers.tolist(), messages, strict=False))

    def drop(self, worker: int) -> None:
        """Treat a worker as if it had not replied."""
        self.arrived[worker] = False
        self._messages.pop(worker, None)

    def table(self) -> Rows:
        """Return the replies' table, in worker order."""
        return self._table[self.arrived]

    def payloads(self) -> dict[int, Buffer]:
        """Return the replies' payloads by worker, in worker order; none where the transport moves no data."""
        return {worker: self._messages[worker][HEADER_BYTES:] for worker in sorted(self._messages)}

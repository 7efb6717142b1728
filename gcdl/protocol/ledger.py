"""The ledger: every byte that is handed over, counted there, by worker; what it carries and headers apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gcdl.types import IntVector

_WORKERS_LISTED = 256


class Traffic:
    """Bytes counted where they are handed over, by worker.

    Attributes
    ----------
    up, down : (n, 2) int64: bytes of replies, and of tasks; what they carry, and headers (a task's other fields among them).
    shared : of ``down``, what was read in the master's memory and crossed no link.
    control : bytes of everything else, both ways.
    foreign : messages (not bytes) dropped because they were not of this run, or damaged.
    resent : (n,) how often a worker's copy of the model was missing or wrong, and was sent anew.
    """

    def __init__(self, n: int = 0) -> None:
        self.up = np.zeros((n, 2), dtype=np.int64)
        self.down = np.zeros((n, 2), dtype=np.int64)
        self.resent = np.zeros(n, dtype=np.int64)
        self.shared = 0
        self.control = 0
        self.foreign = 0

    def received(self, worker: int, payload: int, header: int) -> None:
        """Count a reply."""
        self.up[worker, 0] += payload
        self.up[worker, 1] += header

    def sent(self, worker: int, content: int, header: int, *, shared: int = 0) -> None:
        """Count a task, of whose content ``shared`` bytes were not sent."""
        self.down[worker, 0] += content
        self.down[worker, 1] += header
        self.shared += shared

    def copy(self) -> Traffic:
        """Return the counts as they are now."""
        other = Traffic()
        other.up, other.down, other.resent = self.up.copy(), self.down.copy(), self.resent.copy()
        other.shared, other.control, other.foreign = self.shared, self.control, self.foreign
        return other

    @property
    def uplink(self) -> int:
        """Bytes of replies."""
        return int(self.up.sum())

    @property
    def downlink(self) -> int:
        """Bytes of tasks."""
        return int(self.down.sum())


@dataclass(frozen=True, eq=False)
class Ledger:
    """What a step's replies and tasks took.

    Attributes
    ----------
    up, down : (n, 2) bytes of replies and of tasks: what they carry, and headers.
    shared : of ``down``, what was read in the master's memory and crossed no link.
    resent : (n,) how often a worker's copy of the model was sent anew.
    """

    up: IntVector = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    down: IntVector = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    shared: int = 0
    resent: IntVector = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def between(cls, before: Traffic, after: Traffic) -> Ledger:
        """Return what was counted in between."""
        return cls(after.up - before.up, after.down - before.down, after.shared - before.shared, after.resent - before.resent)

    @property
    def uplink_bytes(self) -> int:
        """Bytes of replies."""
        return int(self.up.sum())

    @property
    def downlink_bytes(self) -> int:
        """Bytes of tasks."""
        return int(self.down.sum())

    def fields(self) -> dict[str, Any]:
        """Return what a line of ``steps.jsonl`` says of it; by worker, where there are not too many."""
        fields: dict[str, Any] = {
            "uplink_bytes": self.uplink_bytes,
            "downlink_bytes": self.downlink_bytes,
            "uplink_header_bytes": int(self.up[:, 1].sum()),
            "downlink_header_bytes": int(self.down[:, 1].sum()),
            "shared_bytes": self.shared,
            "resent": np.flatnonzero(self.resent).tolist(),
        }
        if len(self.up) <= _WORKERS_LISTED:
            fields["uplink_by_worker"] = self.up.sum(axis=1).tolist()
            fields["downlink_by_worker"] = self.down.sum(axis=1).tolist()
        return fields

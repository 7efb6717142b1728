"""What a run has come to so far, over all its parts: a run that was resumed has several.

A checkpoint holds it as JSON, so that a resumed run's seconds and bytes are those of all parts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gcdl.protocol.transport import Transport
from gcdl.training.checkpoint_file import Checkpoint
from gcdl.training.totals import Totals
from gcdl.transport.simulated.virtual_clock import SimulatedTransport


@dataclass
class Progress:
    """The totals of a run, and what its earlier parts came to.

    Attributes
    ----------
    began : when this part of the run began, in seconds of ``time.time()``.
    transport : counts bytes and, simulated, the seconds of the master's link and of its own work.
    totals : running sums over the records of all parts.
    before : :meth:`dump` at the end of the earlier parts; empty for a new run.
    """

    began: float
    transport: Transport
    totals: Totals
    before: Mapping[str, Any]

    @classmethod
    def after(cls, checkpoint: Checkpoint | None, began: float, transport: Transport) -> Progress:
        """Return the progress of a run that goes on from ``checkpoint``; None: of a new run."""
        if checkpoint is None:
            return cls(began, transport, Totals(), {})
        return cls(began, transport, Totals.load(checkpoint.progress["totals"]), checkpoint.progress)

    def dump(self) -> dict[str, Any]:
        """Return the progress, JSON-ready."""
        here = {
            "wall_seconds": time.time() - self.began,
            "control_bytes": self.transport.traffic.control,
            "foreign_messages": self.transport.traffic.foreign,
        }
        if isinstance(self.transport, SimulatedTransport):
            here |= {"link_seconds": self.transport.link_seconds, "master_seconds": self.transport.master_seconds}
        return {"totals": self.totals.dump(), **{name: value + self.before.get(name, 0) for name, value in here.items()}}

    def master_shares(self) -> tuple[float, float] | None:
        """Return the shares of the steps' seconds that a simulated master's link, and its own work, took; None: it is real."""
        so_far = self.dump()
        if "link_seconds" not in so_far:
            return None
        total = max(self.totals.seconds, 1e-300)
        return so_far["link_seconds"] / total, so_far["master_seconds"] / total

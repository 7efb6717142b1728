"""Running sums over a run's records; a checkpoint holds them, so that a resumed run's are those of all its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gcdl.protocol.step_record import StepRecord
from gcdl.training.loss_trend import LossTrend
from gcdl.types import Weights


@dataclass
class Totals:
    """Running sums over a run's records."""

    steps: int = 0
    seconds: float = 0.0
    extra_seconds: float = 0.0
    """How much longer waiting for all would have taken (estimate), inf: for ever."""
    replies: int = 0
    late: int = 0
    timed_out: int = 0
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    uplink_header_bytes: int = 0
    downlink_header_bytes: int = 0
    shared_bytes: int = 0
    clipped: int = 0
    resent: dict[str, int] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    disagreed: dict[str, int] = field(default_factory=dict)
    trend: LossTrend = field(default_factory=LossTrend)
    coverage: Weights | float = 0.0
    """(k,): sum over the steps of the weight each shard entered with."""

    def add(self, record: StepRecord, delays: Weights) -> None:
        """Take in a step, whose injected delays were ``delays``, (n,) seconds."""
        self.steps += 1
        self.seconds += record.seconds
        self.replies += len(record.replies)
        self.late += record.late
        self.timed_out += record.timed_out
        self.uplink_bytes += record.ledger.uplink_bytes
        self.downlink_bytes += record.ledger.downlink_bytes
        self.uplink_header_bytes += int(record.ledger.up[:, 1].sum())
        self.downlink_header_bytes += int(record.ledger.down[:, 1].sum())
        self.shared_bytes += record.ledger.shared
        self.clipped += record.clipped
        for place in np.flatnonzero(record.ledger.resent).tolist():
            self.resent[str(place)] = self.resent.get(str(place), 0) + int(record.ledger.resent[place])
        self.lost = record.lost
        for worker in map(str, record.disagreed):
            self.disagreed[worker] = self.disagreed.get(worker, 0) + 1
        self.coverage = self.coverage + record.coverage
        self.extra_seconds += _extra_seconds(record, delays)

    def dump(self) -> dict[str, Any]:
        """Return the sums, JSON-ready."""
        coverage = self.coverage.tolist() if isinstance(self.coverage, np.ndarray) else self.coverage
        return {**asdict(self), "coverage": coverage}

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Totals:
        """Return the sums that were dumped."""
        trend = LossTrend(**dumped.get("trend", {}))
        return cls(**{**dumped, "trend": trend, "coverage": np.asarray(dumped["coverage"])})

    def mean_coverage(self) -> Weights:
        """Return the weight each shard entered with, (k,), mean over the steps."""
        return np.atleast_1d(self.coverage / max(self.steps, 1))


def _extra_seconds(record: StepRecord, delays: Weights) -> float:
    """Estimate how much later the last worker's reply would have come: its delay, and a typical reply's other seconds."""
    timing = record.timing
    missing = np.ones(len(delays), dtype=bool)
    missing[record.replies] = False
    missing[record.lost] = False
    if not missing.any() or not len(timing.replies):
        return 0.0
    replies = timing.replies
    typical = float(np.mean(replies["received"] - timing.began - replies["slept"] - replies["held"]))
    return max(0.0, float(delays[missing].max()) + typical - (timing.waited - timing.began))

"""What a run came to: running sums over its records, and ``summary.json``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gcdl.protocol.step_record import StepRecord, json_ready
from gcdl.types import Vector, Weights


@dataclass(frozen=True)
class Summary:
    """What a run came to; ``summary.json``. Seconds, and bytes of tasks and replies handed to MPI, headers included.

    Attributes
    ----------
    steps : done.
    seconds : sum of the steps' seconds: evaluation, start-up and shutdown left out.
    wall_seconds : the whole job: from the launch to the end of the shutdown.
    wait_for_all_seconds : estimate of the wall_seconds of a run that waits for every worker in each step; None: it would
        never end.
    final_train_loss, final_test_loss, final_test_accuracy : of the last evaluation; None where there was none.
    final_metrics : the problem's own figures of the test set, by name.
    uplink_bytes : of replies.
    downlink_bytes : delivered to workers: also what they read in the master's memory.
    uplink_header_bytes : of ``uplink_bytes``, the headers.
    downlink_header_bytes : of ``downlink_bytes``, all that is neither model nor update.
    shared_bytes : of ``downlink_bytes``, what was read in the master's memory and crossed no link.
    float32_uplink_bytes : what the same replies would have taken uncompressed.
    control_bytes : start-up, shutdown and flow control, both ways; not in the figures above.
    clipped_coordinates : of the replies used, beyond the scale agreed on; see ``compressor.agreed``.
    resent_models : how often which worker's copy of the model was found to be wrong, and was sent anew.
    late_replies : stale ones, dropped.
    timed_out_steps : steps that ended at [wait] timeout.
    foreign_messages : messages that were none of this run's, dropped.
    lost_workers : ids.
    replaced_workers : ids of workers whose place a spare or a new process took, in the order of it; of a resumed run: in its
        last part.
    losses_left : how many more workers could have been lost, whoever they are.
    disagreeing_workers : in how many steps which worker's reply was not that of its replicas; only if [code] verify is on.
    model_sha256 : of the trained parameters, (d,) float32; None: no model was trained (timing only).
    parameters : d.
    workers : n.
    shard_coverage : (k,) the weight each shard entered with, mean over the steps; 1 is right, 0 means that it was never seen.
    link_share : share of ``seconds`` in which the master's link was occupied; None: real, not simulated.
    master_share : share of ``seconds`` in which the master decoded and stepped; None: real, not simulated.
    resumed : how often the run was resumed. The seconds and bytes are those of all its parts, up to the checkpoints used.
    warnings : what makes this run's figures worse than they need be.
    """

    steps: int
    seconds: float
    wall_seconds: float
    wait_for_all_seconds: float | None
    final_train_loss: float | None
    final_test_loss: float | None
    final_test_accuracy: float | None
    final_metrics: dict[str, float]
    uplink_bytes: int
    downlink_bytes: int
    uplink_header_bytes: int
    downlink_header_bytes: int
    shared_bytes: int
    float32_uplink_bytes: int
    control_bytes: int
    clipped_coordinates: int
    resent_models: dict[str, int]
    late_replies: int
    timed_out_steps: int
    foreign_messages: int
    lost_workers: list[int]
    replaced_workers: list[int]
    losses_left: int
    disagreeing_workers: dict[str, int]
    model_sha256: str | None
    parameters: int
    workers: int
    shard_coverage: list[float]
    link_share: float | None
    master_share: float | None
    resumed: int
    warnings: list[str]

    def fields(self) -> dict[str, Any]:
        """Return the summary as JSON-ready fields."""
        return json_ready(asdict(self))


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
        return cls(**{**dumped, "coverage": np.asarray(dumped["coverage"])})

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


def model_sha256(parameters: Vector) -> str:
    """Return the SHA-256 of the (d,) float32 parameters, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(parameters, dtype="<f4").tobytes()).hexdigest()

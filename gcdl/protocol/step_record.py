"""The record of one step: what a line of ``steps.jsonl`` says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gcdl.protocol.ledger import Ledger
from gcdl.protocol.measurements import StepTiming
from gcdl.types import Weights


@dataclass(slots=True, repr=False)
class StepRecord:
    """What one step measured.

    A line of ``steps.jsonl`` has the same fields, but for ``coverage``, ``timing`` and ``ledger``. In their place it has the
    bytes of :meth:`gcdl.protocol.ledger.Ledger.fields`, and the seconds of :meth:`times`.

    Attributes
    ----------
    step : from 0.
    seconds : of the step, from its task to the new model; evaluation left out.
    train_loss : of the minibatches of the replies decoded, estimated by the same weights a; before the step.
    replies : ids of the workers decoded, ascending.
    late : stale replies dropped during the step (in the last step: and while shutting down).
    decoding_error : ||a B - 1||; 0: the decoded gradient is the sum over all shards, but for compression (Tandon et al. 2017).
    noise_gain : ||a||, what decoding does to compression noise that is independent from worker to worker.
    gradient_norm : Euclidean norm of the decoded gradient; NaN where there is none (timing only).
    timed_out : the step ended at [wait] timeout, with fewer replies than the rule asks for.
    lost : ids of all workers lost so far.
    disagreed : ids of workers whose replies were not those of their replicas; see :mod:`gcdl.protocol.replica_check`.
    clipped : coordinates of the replies used that lay beyond the scale agreed on (``compressor.agreed``).
    fresh : ids of workers whose compressor had begun afresh since the last step: a successor's, or one a checkpoint lacked.
    coverage : (k,) a B, the weight each shard entered with; 1 is right.
    timing : seconds of each part of the step, as the timeline has them.
    ledger : bytes by worker and kind.
    lr : learning rate of the step; None where the optimizer tells none.
    test_loss, test_accuracy : of the model after the step; None in steps without an evaluation. An accuracy is 0 to 1.
    samples : of the minibatches in the decoded gradient, each shard's counted once; with local steps, of all of them. None
        where the problem does not count them.
    recoded : the code that took over at the beginning of the step (:meth:`gcdl.protocol.coding.Coding.recorded`); None: none.
    metrics : the user's own figures, by name; what is added before the next step is asked for is written too.
    """

    step: int
    seconds: float
    train_loss: float
    replies: list[int]
    late: int
    decoding_error: float
    noise_gain: float
    gradient_norm: float
    timed_out: bool
    lost: list[int]
    disagreed: list[int]
    clipped: int
    fresh: list[int]
    coverage: Weights
    timing: StepTiming
    ledger: Ledger = field(default_factory=Ledger)
    lr: float | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None
    samples: int | None = None
    recoded: dict[str, Any] | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        figures = {"test loss": self.test_loss, "test accuracy": self.test_accuracy, **self.metrics}
        known = "".join(f", {name} {value:.4g}" for name, value in figures.items() if value is not None)
        rate = "" if self.lr is None else f", lr {self.lr:.4g}"
        return (
            f"StepRecord of step {self.step}: training loss {self.train_loss:.4g}{known}\n"
            f"  {len(self.replies)} replies, {self.late} late, {len(self.lost)} workers lost; {self.seconds:.4g} s{rate}\n"
            f"  {self.uplink_bytes} bytes up, {self.downlink_bytes} bytes down; decoding error {self.decoding_error:.3g}"
        )

    @property
    def uplink_bytes(self) -> int:
        """Bytes of the replies that came in during the step, headers included."""
        return int(self.ledger.up.sum())

    @property
    def downlink_bytes(self) -> int:
        """Bytes of the tasks that went out during the step, headers included."""
        return int(self.ledger.down.sum())

    def line(self) -> dict[str, Any]:
        """Return the record as JSON-ready fields, evaluation only where there was one."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name not in ("coverage", "timing", "ledger")}
        if self.test_loss is None and self.test_accuracy is None:
            del fields["test_loss"], fields["test_accuracy"]
        if self.samples is None:
            del fields["samples"]
        if self.recoded is None:
            del fields["recoded"]
        fields |= self.ledger.fields()
        if self.metrics:
            fields["metrics"] = json_ready(self.metrics)
        else:
            del fields["metrics"]
        return json_ready(fields | self.times())

    def times(self) -> dict[str, Any]:
        """Return the seconds that a line of ``steps.jsonl`` tells.

        A list for each of ``replies``: ``reply_seconds`` (from the step's beginning until the reply came), ``compute_seconds``
        (computing and encoding), ``encode_seconds`` (of these, encoding) and ``slept_seconds`` (injected). Of the master:
        ``decode_seconds`` and ``update_seconds`` (the optimizer, and what the downlink makes of its step).
        """
        timing, replies = self.timing, self.timing.replies
        by_reply = {
            "reply_seconds": replies["received"] - timing.began,
            "compute_seconds": replies["computed"] + replies["encoded"],
            "encode_seconds": replies["encoded"],
            "slept_seconds": replies["slept"] + replies["held"],
        }
        return {
            **{name: np.round(seconds, 6).tolist() for name, seconds in by_reply.items()},
            "decode_seconds": round(timing.decoded - timing.waited, 6),
            "update_seconds": round(timing.ended - timing.decoded, 6),
        }


def json_ready(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Replace NaN and infinities, which JSON does not have, by None."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in fields.items()}

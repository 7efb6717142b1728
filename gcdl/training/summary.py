"""What a run came to: ``summary.json``."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gcdl.config import Experiment
from gcdl.problems import Evaluation
from gcdl.protocol.master import Master
from gcdl.protocol.step_record import json_ready
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.training.learner import Learner
from gcdl.training.progress import Progress
from gcdl.types import Vector


@dataclass(frozen=True)
class Summary:
    """What a run came to; ``summary.json``. Seconds, and bytes of tasks and replies handed to MPI, headers included.

    Of a simulation, all seconds are virtual but for ``wall_seconds``; the two are never added up.

    Attributes
    ----------
    steps : done.
    clock : "real", or "virtual" in a simulation: which seconds the steps have.
    seconds : sum of the steps' seconds: evaluation, start-up and shutdown left out.
    wall_seconds : the whole job, by the clock on the wall: from the launch to the end of the shutdown.
    wait_for_all_seconds : estimate for a run that waits for every worker in each step: of its ``wall_seconds``, or in a
        simulation of its ``seconds``. None: it would never end.
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
    masters : how many had a slice of the model.
    shard_coverage : (k,) the weight each shard entered with, mean over the steps; 1 is right, 0 means that it was never seen.
    link_share : share of ``seconds`` in which the master's link was occupied; None: real, not simulated.
    master_share : share of ``seconds`` in which the master decoded and stepped; None: real, not simulated.
    stopped : "by the loop" (a script left it by ``break``) or "by a callback": the run has fewer steps than its config says,
        and is complete; None: it has them all.
    resumed : how often the run was resumed. The seconds and bytes are those of all its parts, up to the checkpoints used.
    warnings : what makes this run's figures worse than they need be.
    """

    steps: int
    clock: str
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
    masters: int
    shard_coverage: list[float]
    link_share: float | None
    master_share: float | None
    resumed: int
    warnings: list[str]
    stopped: str | None = None

    def fields(self) -> dict[str, Any]:
        """Return the summary as JSON-ready fields."""
        return json_ready(asdict(self))


def model_sha256(parameters: Vector) -> str:
    """Return the SHA-256 of the (d,) float32 parameters, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(parameters, dtype="<f4").tobytes()).hexdigest()


def summarize(
    experiment: Experiment,
    learner: Learner,
    master: Master,
    progress: Progress,
    evaluation: Evaluation,
    *,
    resumed: int,
    warnings: list[str],
    stopped: str | None,
) -> Summary:
    """Return the summary of a run that is over; ``resumed``: how often it was, ``stopped``: see :class:`Summary`."""
    totals, so_far, shares = progress.totals, progress.dump(), progress.master_shares()
    simulated = shares is not None
    return Summary(
        steps=totals.steps,
        clock="virtual" if simulated else "real",
        seconds=totals.seconds,
        wall_seconds=so_far["wall_seconds"],
        wait_for_all_seconds=(totals.seconds if simulated else so_far["wall_seconds"]) + totals.extra_seconds,
        final_train_loss=evaluation.train_loss,
        final_test_loss=evaluation.test_loss,
        final_test_accuracy=evaluation.test_accuracy,
        final_metrics=dict(evaluation.metrics),
        uplink_bytes=totals.uplink_bytes,
        downlink_bytes=totals.downlink_bytes,
        uplink_header_bytes=totals.uplink_header_bytes,
        downlink_header_bytes=totals.downlink_header_bytes,
        shared_bytes=totals.shared_bytes,
        clipped_coordinates=totals.clipped,
        resent_models=totals.resent,
        float32_uplink_bytes=(totals.replies + totals.late) * (HEADER_BYTES + 4 * learner.layout.size),
        control_bytes=so_far["control_bytes"],
        late_replies=totals.late,
        timed_out_steps=totals.timed_out,
        foreign_messages=so_far["foreign_messages"],
        lost_workers=totals.lost,
        replaced_workers=master.members.replaced,
        losses_left=master.members.losses_left,
        disagreeing_workers=totals.disagreed,
        model_sha256=model_sha256(learner.parameters()) if learner.learns else None,
        parameters=learner.layout.size,
        workers=experiment.n,
        masters=learner.masters(experiment),
        shard_coverage=[round(float(weight), 6) for weight in totals.mean_coverage()],
        link_share=shares and shares[0],
        master_share=shares and shares[1],
        resumed=resumed,
        warnings=warnings,
        stopped=stopped,
    )

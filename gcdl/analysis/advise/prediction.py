"""The predicted seconds of a config: its steps, simulated on the clock alone, with the delays of a run that was.

The master's loop, the wait rule and the code are the real ones (:mod:`gcdl.training.timing_only`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gcdl.analysis.advise.trace import Trace
from gcdl.config import Experiment
from gcdl.protocol.master import Master
from gcdl.protocol.step_record import StepRecord
from gcdl.stragglers import Delays
from gcdl.training.build import make_pace
from gcdl.training.roles.simulation import timing_only
from gcdl.transport.simulated.network import Network
from gcdl.transport.simulated.virtual_clock import SimulatedTransport
from gcdl.types import IntVector, Layout, Weights

_BATCHES = 10
_STUDENT = 2.26
"""Of a t distribution with 9 degrees of freedom: 95 % lie within."""


@dataclass(frozen=True)
class Prediction:
    """What a step is predicted to be like, on average.

    Attributes
    ----------
    seconds, plus_minus : of a step, and half the width of a 95 % interval for its mean (batch means: delays hang together).
    up, down : bytes of replies and of tasks.
    replies : used.
    decoding_error, amplification : as in gcdl/README.md.
    each : (steps,) seconds of each step simulated.
    """

    seconds: float
    plus_minus: float
    up: float
    down: float
    replies: float
    decoding_error: float
    amplification: float
    each: Weights


def predict(
    experiment: Experiment,
    layout: Layout,
    trace: Trace,
    network: Network,
    encode: float,
    computing: Callable[[IntVector], Weights],
    steps: int,
) -> Prediction:
    """Simulate ``steps`` steps.

    ``encode``: seconds that a worker takes to compress its reply; ``computing``: how many times as long as one shard some take.
    """
    made = timing_only(experiment, layout)
    shards = np.count_nonzero(experiment.code.B, axis=1)
    each = computing(shards) / shards
    held = np.full(experiment.n, encode)

    def delays(step: int) -> Delays:
        return Delays.of(experiment.n, compute=trace.delay[step % len(trace.delay)].copy(), send=held)

    pace = replace(
        make_pace(experiment, layout, made.slices),
        delays=delays,
        seconds_per_shard=lambda step: trace.one_shard[step % len(trace.delay)] * each,
        network=network,
    )
    transport = SimulatedTransport(pace, None)
    master = Master(transport, code=experiment.code, slices=made.learner.slices, wait=experiment.wait)
    return _summed_up(experiment, deque(master.run(steps)))


def _summed_up(experiment: Experiment, records: deque[StepRecord]) -> Prediction:
    norms = np.square(experiment.code.B).sum(axis=1) / experiment.code.k
    seconds = np.array([record.seconds for record in records])
    amplification = []
    for record in records:
        arrived = np.zeros(experiment.n, dtype=np.bool_)
        arrived[record.replies] = True
        amplification.append(math.sqrt(float(np.square(experiment.code.decoding_vector(arrived)) @ norms)))
    return Prediction(
        seconds=float(seconds.mean()),
        plus_minus=_interval(seconds),
        up=float(np.mean([record.uplink_bytes for record in records])),
        down=float(np.mean([record.downlink_bytes for record in records])),
        replies=float(np.mean([len(record.replies) for record in records])),
        decoding_error=float(np.mean([record.decoding_error for record in records])),
        amplification=float(np.mean(amplification)),
        each=seconds,
    )


def _interval(seconds: Weights) -> float:
    """Return half the width of a 95 % interval for the mean, from the means of batches of steps that follow each other."""
    batches = np.array([batch.mean() for batch in np.array_split(seconds, _BATCHES)])
    return float(_STUDENT * batches.std(ddof=1) / math.sqrt(_BATCHES))

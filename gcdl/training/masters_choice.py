"""How many masters pay (``run.masters = 0``): the fewest whose predicted step is not much longer than the shortest there is.

A step's seconds, for K masters with links of B bytes a second, workers with links of b, T bytes of a task, R of a reply::

    (n - 1) max(T, R) / (K B)                      tasks leave one after the other, while the first replies come in
    + max(T / b, T / (K B)) + max(R / b, R / (K B))   a worker's own task and reply
    + n (c0 + c d / K)                             decoding
    + what the masters tell each other, latencies, computing

:mod:`gcdl.transport.simulated` counts the same, event by event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np

from gcdl.compressors.kernels import BLOCK
from gcdl.config import Experiment
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.training.build import task_format
from gcdl.training.slice_messages import answer_bytes, decision_bytes
from gcdl.training.slices import masters_of
from gcdl.transport.simulated.network import Network
from gcdl.types import Layout

ASSUMED_BANDWIDTH = 1.25e8
"""Bytes a second of every link, where nobody says how fast the links are: 1 Gbit/s."""
ASSUMED_DECODING = 2e-10
"""Seconds that a reply's coordinate takes to decode, where nobody says; see benchmarks/README.md."""
_WORTH = 1.1
"""More masters must make the step shorter by this factor at least, all of them together."""


@dataclass(frozen=True)
class StepCosts:
    """What a step of a run takes.

    Attributes
    ----------
    d : parameters.
    workers : n.
    task_bytes, reply_bytes : T and R, headers and all, of one master.
    compute_seconds : of the worker with the most shards.
    network : the links, and the masters' own work.
    """

    d: int
    workers: int
    task_bytes: int
    reply_bytes: int
    compute_seconds: float
    network: Network

    def seconds(self, masters: int) -> float:
        """Return the predicted seconds of a step with so many masters."""
        network, n, others = self.network, self.workers, masters - 1
        blocks = -(-self.d // BLOCK)
        share = min(1.0, -(-blocks // masters) * BLOCK / self.d)
        task, reply = share * self.task_bytes, share * self.reply_bytes + others * HEADER_BYTES
        told = others * (decision_bytes(n) + answer_bytes(n, -(-blocks // masters))) / network.master_bandwidth
        per_reply = network.decode_seconds + share * self.d * network.decode_seconds_per_coordinate
        return (
            (n - 1) * max(task, reply) / network.master_bandwidth
            + max(self.task_bytes / network.bandwidth, task / network.master_bandwidth)
            + max(self.reply_bytes / network.bandwidth, reply / network.master_bandwidth)
            + n * per_reply
            + share * network.step_seconds
            + told
            + network.latency * (5 if others else 2)
            + self.compute_seconds
        )


def choose_masters(costs: StepCosts, most: int) -> int:
    """Return the smallest number of masters, of ``most`` at most, whose step takes at most 10 % more than the shortest."""
    counts = range(1, masters_of(costs.d, max(1, most)) + 1)
    seconds = [costs.seconds(masters) for masters in counts]
    return next(masters for masters, here in zip(counts, seconds, strict=True) if here <= _WORTH * min(seconds))


def step_costs(experiment: Experiment, layout: Layout, network: Network) -> StepCosts:
    """Return what a step of an experiment costs over these links, if nobody is late and every worker has the last version."""
    codec = experiment.compressor.codec(layout)
    code = experiment.code
    weights = [1.0] * (experiment.n - code.stragglers)
    content = experiment.downlink.size(layout.size, codec.payload_bytes, codec.agreed_count, weights)
    return StepCosts(
        d=layout.size,
        workers=experiment.n,
        task_bytes=task_format(experiment, codec).overhead_bytes + content,
        reply_bytes=HEADER_BYTES + codec.payload_bytes,
        compute_seconds=float(np.count_nonzero(code.B, axis=1).max()) * experiment.config.run.seconds_per_shard,
        network=network,
    )


def network_of(experiment: Experiment) -> Network:
    """Return the links, and the masters' own work, as [simulate] states them."""
    return Network(**experiment.config.simulate.model_dump(exclude={"compute", "parameters"}))


def masters_that_pay(experiment: Experiment, layout: Layout, say: Callable[[str], None], hosts: int | None = None) -> int:
    """Choose how many masters a run gets that leaves it open (``run.masters = 0``), and say why.

    Parameters
    ----------
    experiment : of the run.
    layout : of its model.
    say : takes a line for the user.
    hosts : that the ranks lie on; there are no more masters than hosts. None: a simulation, where each master has a link.
    """
    network = network_of(experiment)
    links = "links as [simulate] states them"
    most = experiment.n
    if hosts is not None:
        stated = isfinite(network.master_bandwidth)
        if not stated:
            network = replace(network, bandwidth=ASSUMED_BANDWIDTH, master_bandwidth=ASSUMED_BANDWIDTH)
            links = "links of 1 Gbit/s assumed; simulate.master_bandwidth states others"
        if network.decode_seconds_per_coordinate == 0.0:
            network = replace(network, decode_seconds_per_coordinate=ASSUMED_DECODING)
        if hosts > 1 or not stated:
            most = min(most, hosts)
    costs = step_costs(experiment, layout, network)
    masters = choose_masters(costs, most)
    where = "simulated" if hosts is None else "1 host" if hosts == 1 else f"{hosts} hosts"
    found = (
        f"run.masters = 0: {masters} {'master' if masters == 1 else 'masters'}, {costs.seconds(masters):.3g} s a step predicted"
    )
    if masters > 1:
        found += f"; 1 master: {costs.seconds(1):.3g} s"
    say(f"{found} ({layout.size:,} parameters, {experiment.n} workers, {where}, {links})")
    return masters

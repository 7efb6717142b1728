"""The delays of a run, by step and worker together, so that what happens to several workers at once stays together.

A reply takes what the links, computing and encoding take; what is left is delay: injected sleep, and all that nobody
measured. The seconds that the links take are found by the simulator's own model, for each step by itself. If the links measured
would make the replies later than they came, they are taken to be faster (*calibration*).

Of a reply that was not used, we only know that it took longer than the master waited. Its delay is that bound and an
exponential time beyond: the shifted exponential of :mod:`gcdl.analysis.delay_fits` has no memory. Its mean is that of the
worker's delays, or of everyone's where the worker has too few.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcdl.analysis.advise.costs import Costs
from gcdl.analysis.advise.links import Links
from gcdl.analysis.advise.observed import Observed
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.transport.simulated.network import Network, Sizes
from gcdl.types import IntVector, Mask, Matrix, Weights

_FASTER = (1.0, 1.25, 1.6, 2.0, 3.0, 5.0, 10.0, 100.0)
"""Times as fast that the links may turn out to be."""
_LEAST = 0.1
_ENOUGH = 8
"""Replies of a worker that tell its delays."""


@dataclass(frozen=True, eq=False)
class Trace:
    """What workers take in the steps of a run.

    Attributes
    ----------
    one_shard : (T, n) seconds of a gradient of one shard.
    delay : (T, n) seconds that come on top.
    unseen : (T, n) whether that is a guess, because no reply was used.
    took : (T, n) seconds of computing and delay, in the run; where the delay is a guess, what they were at least.
    """

    one_shard: Matrix
    delay: Matrix
    unseen: Mask
    took: Matrix

    def of_workers(self, columns: IntVector) -> Trace:
        """Return the trace of a run with these of the workers, (m,), some perhaps several times."""
        return Trace(self.one_shard[:, columns], self.delay[:, columns], self.unseen[:, columns], self.took[:, columns])

    def without_stragglers(self) -> Trace:
        """Return a trace in which every worker computes as long as a typical one, and is delayed by the least."""
        shape = self.delay.shape
        even = np.full(shape, np.median(self.one_shard)), np.full(shape, self.least_delay)
        return Trace(*even, np.zeros(shape, dtype=np.bool_), even[0] + even[1])

    @property
    def least_delay(self) -> float:
        """A delay below which few are: what every reply takes beside computing and the links, e.g. until somebody looks."""
        return float(np.quantile(self.delay, _LEAST))


def trace_of(observed: Observed, links: Links, costs: Costs, rng: np.random.Generator) -> tuple[Trace, Links]:
    """Return a run's trace, and its links, calibrated."""
    reply_bytes = _reply_bytes(observed)
    busy = observed.compute + observed.encode + observed.slept
    for factor in _FASTER:
        calibrated = links.times_as_fast(factor)
        travel = _without_delays(observed, busy, calibrated.network, reply_bytes)
        beyond = observed.reply - travel
        if np.nanmedian(beyond) >= -0.01 * np.nanmedian(observed.reply):
            break
    unseen = np.isnan(observed.reply) & ~observed.lost
    delay = observed.slept + np.maximum(beyond, 0.0)
    shards = np.count_nonzero(observed.experiment.code.B, axis=1)
    compute = _filled_up(observed.compute)
    one_shard = compute / (costs.computing(shards) * observed.loads / shards)
    undelayed = _filled_up(observed.compute) + _filled_up(observed.encode)
    soonest = _without_delays(observed, np.where(unseen, undelayed, busy), calibrated.network, reply_bytes)
    bound = np.nan_to_num(np.maximum(observed.waited[:, None] - soonest, 0.0))
    guessed = _with_guesses(delay, bound, unseen | observed.lost, rng)
    return Trace(one_shard, guessed, unseen, compute + np.where(np.isnan(delay), bound, delay)), calibrated


def _reply_bytes(observed: Observed) -> int:
    codec = observed.experiment.compressor.codec(observed.sizes.layout)
    return HEADER_BYTES + codec.payload_bytes


def _without_delays(observed: Observed, busy: Matrix, network: Network, reply_bytes: int) -> Matrix:
    """Return when the replies would have come, (T, n), of workers that are ``busy`` so long; NaN where that is."""
    found = np.full(observed.reply.shape, np.nan)
    everyone = np.arange(observed.n)
    tasks = np.nan_to_num(observed.task_bytes).astype(np.int64)
    size = Sizes(reply_bytes, reply_bytes)
    for row, work, sizes in zip(found, busy, tasks, strict=True):
        leaves = np.cumsum(network.occupation(sizes, everyone))
        taken = np.concatenate([[0.0], leaves[:-1]]) + network.transfer(sizes, sizes, everyone)
        seen = np.flatnonzero(np.isfinite(work))
        sent = (taken + work)[seen]
        order = np.argsort(sent, kind="stable")
        row[seen[order]] = network.arrivals(sent[order], size, 0.0, seen[order])[0]
    return found


def _filled_up(table: Matrix) -> Matrix:
    """Return a table with each NaN replaced by the median of its worker, or of all where a worker has no number."""
    typical = np.nanmedian(table)
    medians = np.array([np.nanmedian(column) if np.isfinite(column).any() else typical for column in table.T])
    return np.where(np.isnan(table), medians, table)


def _with_guesses(delay: Matrix, bound: Matrix, unseen: Mask, rng: np.random.Generator) -> Matrix:
    """Return the delays with those that nobody saw drawn beyond their ``bound``, (T, n)."""
    everyone = _mean_beyond_shift(delay[~unseen], bound[unseen])
    filled = delay.copy()
    for worker in np.flatnonzero(unseen.any(axis=0)):
        missing = unseen[:, worker]
        seen = delay[~missing, worker]
        scale = _mean_beyond_shift(seen, bound[missing, worker]) if len(seen) >= _ENOUGH else everyone
        filled[missing, worker] = bound[missing, worker] + rng.exponential(scale, int(missing.sum()))
    return filled


def _mean_beyond_shift(seen: Weights, censored: Weights) -> float:
    """Return the scale of the shifted exponential, by maximum likelihood; see :mod:`gcdl.analysis.delay_fits`."""
    shift = float(seen.min())
    return float(((seen - shift).sum() + np.maximum(censored - shift, 0.0).sum()) / len(seen))

"""Which samples belong to which shard, and which of a shard's samples a step uses.

*Replicas must agree.* Both are keyed by the seed, the shard and the step, never by the worker: two holders of a shard draw
the same minibatch.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from gcdl.types import IntVector, Stream, rng_for

Sampling = Literal["independent", "epoch"]


def shard_indices(samples: int, k: int, seed: int) -> list[IntVector]:
    """Deal ``samples`` sample numbers to k shards at random; sizes differ by at most one. Each shard is sorted."""
    order = rng_for(seed, Stream.SHARDS).permutation(samples)
    return [np.sort(part) for part in np.array_split(order, k)]


class Minibatches:
    """Draws the samples that a step uses of a shard.

    Parameters
    ----------
    batch_size : samples per shard and step; 0: the whole shard.
    sampling : ``"independent"``: each step draws anew, without replacement within the step. ``"epoch"``: a shard's samples
        are shuffled, used up in order, and shuffled again; the last minibatch of an epoch may be smaller.
    seed : the run's.
    """

    def __init__(self, batch_size: int, sampling: Sampling, seed: int) -> None:
        self.batch_size = batch_size
        self.sampling = sampling
        self.seed = seed
        self._orders: dict[int, tuple[int, int, IntVector]] = {}

    def rows(self, shard: int, size: int, step: int) -> IntVector | slice:
        """Return the places, within a shard of ``size`` samples, of a step's minibatch."""
        if self.batch_size == 0 or self.batch_size >= size:
            return slice(0, size)
        if self.sampling == "independent":
            return minibatch(size, self.batch_size, self.seed, shard, step)
        epoch, place = divmod(step, -(-size // self.batch_size))
        start = place * self.batch_size
        return self._order(shard, size, epoch)[start : start + self.batch_size]

    def counts(self, sizes: IntVector, step: int) -> IntVector:
        """Return how many samples a step uses of shards of these ``sizes``, (k,)."""
        if self.batch_size == 0:
            return sizes
        batch = np.minimum(self.batch_size, sizes)
        if self.sampling == "independent":
            return batch
        return np.asarray(np.minimum(batch, sizes - step % -(-sizes // batch) * batch))

    def _order(self, shard: int, size: int, epoch: int) -> IntVector:
        """Return a shard's samples in the order of an epoch; the last one drawn of each shard is kept."""
        kept = self._orders.get(shard)
        if kept is None or kept[:2] != (size, epoch):
            order = rng_for(self.seed, Stream.EPOCH, shard, epoch).permutation(size)
            kept = self._orders[shard] = size, epoch, order
        return kept[2]


def minibatch(samples: int, batch_size: int, seed: int, shard: int, step: int) -> IntVector | slice:
    """Return an independent draw from a shard of ``samples`` samples, without replacement; 0: the whole shard."""
    if batch_size == 0 or batch_size >= samples:
        return slice(0, samples)
    rng = rng_for(seed, Stream.MINIBATCH, shard, step)
    return rng.choice(samples, batch_size, replace=False, shuffle=False)

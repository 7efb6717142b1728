"""Which samples belong to which shard, and which of a shard's samples a step uses.

*Replicas must agree.* Both are keyed by the seed, the shard and the step, never by the worker: two holders of a shard draw
the same minibatch.
"""

from __future__ import annotations

import numpy as np

from gcdl.types import IntVector, Stream, rng_for


def shard_indices(samples: int, k: int, seed: int) -> list[IntVector]:
    """Deal ``samples`` sample numbers to k shards at random; sizes differ by at most one. Each shard is sorted."""
    order = rng_for(seed, Stream.SHARDS).permutation(samples)
    return [np.sort(part) for part in np.array_split(order, k)]


def minibatch(samples: int, batch_size: int, seed: int, shard: int, step: int) -> IntVector | slice:
    """Return the minibatch of a shard of ``samples`` samples at a step, drawn without replacement; 0: the whole shard."""
    if batch_size == 0 or batch_size >= samples:
        return slice(0, samples)
    rng = rng_for(seed, Stream.MINIBATCH, shard, step)
    return rng.choice(samples, batch_size, replace=False, shuffle=False)

"""Sends the replies instead of the model: every worker holds a replica, decodes the same gradient, and takes the same step.

*replies*: the replies that the master used, and their weights: m d/8 bytes for m one-bit replies. Lossless for any weights.

*votes*: where scales are equal and weights are multiples of a unit, the sum of the replies is an integer, W of them at most:
ceil(log2(W+1)) d/8 bytes. Lossless too. Compressors with a scale have to agree on one (``compressor.agreed``).

*signs*: where the optimizer looks at the gradient's signs alone, either kind sends those: d/8 bytes, and lossless still
(:mod:`gcdl.downlinks.signs`).

A step whose replies are no votes is sent as replies. If those are larger than the gradient, the gradient is sent: 4 d bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gcdl.compressors import Message
from gcdl.compressors.votes import multiples, planes_of
from gcdl.downlinks.base import Ends, Steps
from gcdl.downlinks.replica import Replica, snapshot_bytes
from gcdl.downlinks.signs import Signs, steps_on_signs
from gcdl.downlinks.update_log import UpdateLog
from gcdl.downlinks.updates import Form, update_bytes, write_update
from gcdl.types import Buffer, Natural, Vector, Weights


@dataclass(frozen=True)
class Replies:
    """The replies as they came.

    Parameters
    ----------
    check_every : steps between hashes of the model; 0: none.
    """

    check_every: Natural = 50

    votes: ClassVar[bool] = False
    replicas: ClassVar[bool] = True
    steps_replicas: ClassVar[bool] = True

    def publisher(self, ends: Ends, optimizer: Steps) -> _Publisher:
        """Return the master's end."""
        return _Publisher(ends, optimizer, self.check_every, count=self.votes)

    def follower(self, ends: Ends, *, fresh: bool) -> Replica:
        """Return a replica that steps an optimizer of its own."""
        return Replica(ends, fresh=fresh)

    def size(self, d: int, payload_bytes: int, scales: int, weights: Sequence[float]) -> int:
        """Return the bytes of the smallest form."""
        m = len(weights)
        replies = update_bytes(m, scales, m * payload_bytes)
        gradient = update_bytes(0, 0, 4 * d)
        counted = multiples(weights) if self.votes else None
        votes = replies if counted is None else update_bytes(m, scales, planes_of(sum(counted[1])) * -(-d // 8))
        return min(replies, gradient, votes)


@dataclass(frozen=True)
class Votes(Replies):
    """The sum of the replies, as votes."""

    votes: ClassVar[bool] = True


class _Publisher:
    def __init__(self, ends: Ends, optimizer: Steps, check_every: int, *, count: bool) -> None:
        self.optimizer = optimizer
        self.model = optimizer.parameters
        self.content = UpdateLog(
            self.model, optimizer.state, limit=snapshot_bytes(ends, stepping=True), check_every=check_every
        )
        self._codec = ends.codec
        self._count = count
        self._signs = Signs(ends.layout.size) if steps_on_signs(ends.optimizer) else None

    @property
    def version(self) -> int:
        """The newest version in the log."""
        return self.content.version

    def step(self, gradient: Vector, messages: Sequence[Message], a: Weights, norm: float) -> None:
        """Step the optimizer, and add the update to the log."""
        self.content.append(self._update(gradient, messages, norm))
        self.optimizer.step(gradient, norm)

    def restart(self, version: int) -> None:
        """Empty the log; it goes on from this version."""
        self.content.restart(version)

    def state(self) -> dict[str, np.ndarray]:
        """Return no arrays: replicas are restored from snapshots."""
        return {}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Do nothing."""

    def _update(self, gradient: Vector, messages: Sequence[Message], norm: float) -> Buffer:
        step, take = self.version, self.content.take
        if self._signs is not None:
            return write_update(Form.SIGNS, step, [], [self._signs.pack(gradient, step)], take, norm=norm)
        votes = self._codec.votes(messages) if self._count else None
        if votes is not None:
            bits = [votes.planes.reshape(-1)]
            return write_update(Form.VOTES, step, messages, bits, take, total=votes.total, unit=votes.unit, norm=norm)
        if sum(message.payload.size for message in messages) < gradient.nbytes:
            return write_update(Form.REPLIES, step, messages, [message.payload for message in messages], take, norm=norm)
        return write_update(Form.GRADIENT, step, [], [gradient.view(np.uint8)], take, norm=norm)

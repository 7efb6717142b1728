"""The update itself in one bit a coordinate: all hold the model that these updates lead to, the master too.

With w the parameters, u the optimizer's step and e what was left out so far,

    y = u + e,    w <- w + Q(y),    e <- y - Q(y),

Q the scaled sign, M = mean|y| of each tensor or block of one, cut where a BLOCK of the kernels ends: ceil(d/8) bytes, and 4 a
scale. Error feedback at the server, as in Tang et al., *DoubleSqueeze*, ICML 2019; here around the optimizer's step, so that
momentum and the like are taken at the master with the exact gradient, and no replica needs the optimizer's state. Lossy, in
contrast to the other downlinks: w lags behind by e. A worker that fell behind applies the updates that it missed, in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gcdl.compressors import Draw, ErrorFeedback, Message, ScaledSign
from gcdl.compressors.parts import cut_at_blocks
from gcdl.downlinks.base import Ends, Steps
from gcdl.downlinks.replica import Replica, snapshot_bytes
from gcdl.downlinks.update_log import UpdateLog
from gcdl.downlinks.updates import Form, Update, update_bytes, write_update
from gcdl.types import Layout, Natural, Vector, Weights, aligned_buffer, aligned_vector


@dataclass(frozen=True)
class SignUpdates:
    """One bit for each coordinate of the update.

    Parameters
    ----------
    block : coordinates of a tensor that share a scale; 0: a whole tensor. 256 takes an eighth of a bit a coordinate, and lets
        coordinates that move fast keep up where others hardly move.
    check_every : steps between hashes of the model; 0: none.
    """

    block: Natural = 256
    check_every: Natural = 50

    votes: ClassVar[bool] = False
    replicas: ClassVar[bool] = True
    steps_replicas: ClassVar[bool] = False

    def publisher(self, ends: Ends, optimizer: Steps) -> _Publisher:
        """Return the master's end."""
        return _Publisher(self, ends, optimizer)

    def follower(self, ends: Ends, *, fresh: bool) -> Replica:
        """Return a replica without an optimizer."""
        return Replica(ends, fresh=fresh, steps=_Steps(self.block, ends.layout).decode)

    def size(self, d: int, payload_bytes: int, scales: int, weights: Sequence[float]) -> int:
        """Return the bytes of an update; ``scales`` or not, it has one a tensor, or block: those of one at least."""
        return update_bytes(0, 0, -(-d // 8) + 4 * max(1, d // self.block if self.block else 1))


class _Steps:
    """Compresses and decodes steps."""

    def __init__(self, block: int, layout: Layout) -> None:
        # No scale reaches over the edge of a BLOCK: then slices of the model have the scales that the whole model has.
        self.codec = ErrorFeedback(ScaledSign(block)).codec(cut_at_blocks(layout))

    def decode(self, update: Update, into: Vector) -> None:
        """Overwrite ``into``, (d,), with the step that an update holds."""
        payload = update.body[: self.codec.payload_bytes]
        self.codec.decode([Message(payload, 1.0, Draw(0, update.step, 0, 0))], into)


class _Publisher:
    def __init__(self, recipe: SignUpdates, ends: Ends, optimizer: Steps) -> None:
        d = ends.layout.size
        self.optimizer = optimizer
        self.model = optimizer.parameters
        self.content = UpdateLog(self.model, dict, limit=snapshot_bytes(ends, stepping=False), check_every=recipe.check_every)
        self._codec = _Steps(recipe.block, ends.layout).codec
        self._residual = self._codec.init()
        self._before = aligned_vector(d)
        self._change = aligned_vector(d)
        self._payload = aligned_buffer(self._codec.payload_bytes)

    @property
    def version(self) -> int:
        """That of the log."""
        return self.content.version

    def step(self, gradient: Vector, messages: Sequence[Message], a: Weights, norm: float) -> None:
        """Let the optimizer step, and apply what a bit a coordinate can say of that step, and of what was left out before."""
        parameters, step = self.model, self.version
        np.copyto(self._before, parameters)
        self.optimizer.step(gradient, norm)
        np.subtract(parameters, self._before, out=self._change)
        if not np.isfinite(self._change.sum()):  # a sign can't say so: the model is sent as it is, for the workers to notice
            self.content.append(None)
            return
        draw = Draw(0, step, 0, 0)
        self._residual = self._codec.compress(self._change, self._residual, draw, self._payload)
        self._residual = self._codec.settle(self._residual, step)
        self._codec.decode([Message(self._payload, 1.0, draw)], self._change)
        np.add(self._before, self._change, out=parameters)
        self.content.append(write_update(Form.STEP, step, [], [self._payload], self.content.take))

    def restart(self, version: int) -> None:
        """Begin the log at a version."""
        self.content.restart(version)

    def state(self) -> dict[str, np.ndarray]:
        """Return e."""
        return {"residual": self._residual.kept.copy()}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Begin with e."""
        self._residual.kept[:] = state["residual"]

"""Sends the optimizer's step in one bit a coordinate. Master and workers all hold the model that these steps lead to.

With w the parameters, u the optimizer's step and e what was left out so far,

    y = u + e,    w <- w + Q(y),    e <- y - Q(y),

Q is the scaled sign, M = mean|y| of each tensor, or of blocks of a tensor. No scale reaches over the end of a BLOCK of the
kernels. An update takes ceil(d/8) bytes, and 4 for each scale.

This is error feedback at the server, as in Tang et al., *DoubleSqueeze*, ICML 2019. Here it is around the optimizer's step: the
master takes momentum and the like with the exact gradient, and no replica needs the optimizer's state. It is lossy, unlike the
other downlinks: w lags behind by e. A worker that fell behind applies the updates that it missed, in order.
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
    block : coordinates of a tensor that share a scale; 0: a whole tensor. 256 costs an eighth of a bit a coordinate, and lets
        coordinates that move fast keep up beside others that hardly move.
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
        """Return about how many bytes an update has, with a scale a block, or one in all. ``scales`` plays no part."""
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
        """The newest version in the log."""
        return self.content.version

    def step(self, gradient: Vector, messages: Sequence[Message], a: Weights, norm: float) -> None:
        """Step the optimizer, and apply Q(y): one bit a coordinate of that step and of what was left out before."""
        parameters, step = self.model, self.version
        np.copyto(self._before, parameters)
        self.optimizer.step(gradient, norm)
        np.subtract(parameters, self._before, out=self._change)
        if not np.isfinite(self._change.sum()):  # no sign can say that: the model is sent as it is, and the workers notice
            self.content.append(None)
            return
        draw = Draw(0, step, 0, 0)
        self._residual = self._codec.compress(self._change, self._residual, draw, self._payload)
        self._residual = self._codec.settle(self._residual, step)
        self._codec.decode([Message(self._payload, 1.0, draw)], self._change)
        np.add(self._before, self._change, out=parameters)
        self.content.append(write_update(Form.STEP, step, [], [self._payload], self.content.take))

    def restart(self, version: int) -> None:
        """Empty the log; it goes on from this version."""
        self.content.restart(version)

    def state(self) -> dict[str, np.ndarray]:
        """Return e."""
        return {"residual": self._residual.kept.copy()}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Begin with e; of another kind of downlink there is none."""
        if "residual" in state:
            self._residual.kept[:] = state["residual"]

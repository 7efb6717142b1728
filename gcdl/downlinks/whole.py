"""The whole model, each step: 4 d bytes in float32, 2 d in bfloat16. Workers hold nothing.

In bfloat16 the master keeps and steps float32 parameters. The workers compute at rounded ones: 8 bits of precision, a relative
error of 2^-9 at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from gcdl.compressors import Message
from gcdl.compressors.bfloat16 import from_bfloat16, to_bfloat16
from gcdl.downlinks.base import Ends, Steps, flip_a_bit
from gcdl.errors import MessageError
from gcdl.types import Buffer, Vector, Weights, aligned_buffer, aligned_vector


@dataclass(frozen=True)
class WholeModel:
    """The model itself.

    Parameters
    ----------
    dtype : how its numbers travel.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"

    votes: ClassVar[bool] = False
    replicas: ClassVar[bool] = False
    steps_replicas: ClassVar[bool] = False

    def publisher(self, ends: Ends, optimizer: Steps) -> WholePublisher:
        """Return the master's end."""
        return WholePublisher(optimizer) if self.dtype == "float32" else _Rounded(optimizer, ends.memory)

    def follower(self, ends: Ends, *, fresh: bool) -> _Follower:
        """Return a worker's end; it needs no version to start from."""
        return _Follower(ends.layout.size, rounded=self.dtype != "float32", memory=ends.memory)

    def size(self, d: int, payload_bytes: int, scales: int, weights: Sequence[float]) -> int:
        """Return 4 d, or 2 d."""
        return (4 if self.dtype == "float32" else 2) * d


class WholeContent:
    """The content of a task; the same for all workers."""

    def __init__(self, stored: Buffer) -> None:
        self.version = 0  # nobody keeps one
        self.whole: Buffer | None = stored
        self._stored = stored

    def nbytes(self, base: int) -> int:
        """Return the model's bytes."""
        return self._stored.size

    def write(self, base: int, into: Buffer) -> None:
        """Copy it."""
        into[:] = self._stored


class WholePublisher:
    """Sends the optimizer's parameters."""

    def __init__(self, optimizer: Steps) -> None:
        self.version = 0
        self.optimizer = optimizer
        self.model = optimizer.parameters
        self.content = WholeContent(self.model.view(np.uint8))

    def step(self, gradient: Vector, messages: Sequence[Message], a: Weights, norm: float) -> None:
        """Step."""
        self.optimizer.step(gradient, norm)
        self.version += 1

    def restart(self, version: int) -> None:
        """Note the version."""
        self.version = version

    def state(self) -> dict[str, np.ndarray]:
        """Return no arrays: there are none beside the optimizer's."""
        return {}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Do nothing."""


class _Rounded(WholePublisher):
    def __init__(self, optimizer: Steps, memory: Vector | None) -> None:
        super().__init__(optimizer)
        d = optimizer.parameters.size
        self._halves = aligned_buffer(2 * d).view(np.uint16)
        self.model = aligned_vector(d) if memory is None else memory
        self.content = WholeContent(self._halves.view(np.uint8))
        self._round()

    def step(self, gradient: Vector, messages: Sequence[Message], a: Weights, norm: float) -> None:
        """Step, and round."""
        super().step(gradient, messages, a, norm)
        self._round()

    def restart(self, version: int) -> None:
        """Round the parameters that were loaded."""
        super().restart(version)
        self._round()

    def _round(self) -> None:
        to_bfloat16(self.optimizer.parameters, self._halves)
        from_bfloat16(self._halves, self.model)


class _Follower:
    wrong = False

    def __init__(self, d: int, *, rounded: bool, memory: Vector | None) -> None:
        self.version = 0
        self.body_bytes = (2 if rounded else 4) * d
        self.in_place = memory is None
        self._rounded = rounded
        self._memory = aligned_vector(d) if rounded and memory is None else memory
        self._damaged = False

    def follow(self, content: Buffer) -> Vector:
        """Return the model: a view of the content, or a copy of it if it is rounded or memory was given.

        Raises
        ------
        MessageError : it is of another size than the model.
        """
        if content.size != self.body_bytes:
            raise MessageError(f"a task with a model of {content.size} bytes where {self.body_bytes} were expected")
        model = content.view(np.float32) if self._memory is None else self._memory
        if self._rounded:
            from_bfloat16(content.view(np.uint16), model)
        elif self._memory is not None:
            model[:] = content.view(np.float32)
        if self._damaged:
            self._damaged = False
            model = model if self._memory is not None else model.copy()
            flip_a_bit(model)
        return model

    def damage(self) -> None:
        """Flip a bit of the next model; the one after it is right again."""
        self._damaged = True

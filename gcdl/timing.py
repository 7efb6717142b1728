"""Stand-ins for a run in which only the clock runs (``gcdl simulate --timing-only``): the master's loop, without any data.

No vector of d numbers exists: the parameters, the gradient and every message are empty; their sizes are what they would be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gcdl.compressors import Message
from gcdl.problems import Evaluation
from gcdl.types import Buffer, Vector, aligned_vector


class NoOptimizer:
    """Steps nothing."""

    def __init__(self) -> None:
        self.parameters = aligned_vector(0)

    def step(self, gradient: Vector) -> None:
        """Do nothing."""

    def state(self) -> dict[str, np.ndarray]:
        """Return no arrays."""
        return {}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Do nothing."""


class NoCodec:
    """Decodes nothing."""

    state_bytes = 0

    def decode(self, messages: Sequence[Message], into: Vector) -> None:
        """Do nothing."""

    def energy(self, payload: Buffer) -> tuple[float, float]:
        """Return nothing: there are no messages to ask of."""
        return 0.0, 0.0


class NoEvaluator:
    """Judges nothing."""

    def evaluate(self, parameters: Vector, *, train: bool) -> Evaluation:
        """Return no figures."""
        return Evaluation(None, None, None)


class NoKeeper:
    """Keeps no checkpoints."""

    written = 0

    def begin(self) -> None:
        """Do nothing."""

    def look(self) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""

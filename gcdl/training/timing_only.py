"""Stand-ins for a simulation in which only the clock runs (``gcdl simulate --timing-only``).

The master's loop is the real one. Parameters, gradient and messages are empty, so that d may be larger than memory; the
sizes that the clock is told are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors import Codec, Message
from gcdl.downlinks import Content, Downlink, UpdateLog, WholeContent, most_state_bytes
from gcdl.downlinks.signs import signs_bytes, steps_on_signs
from gcdl.downlinks.updates import update_bytes
from gcdl.optimizers import OptimizerRecipe
from gcdl.problems import Evaluation
from gcdl.types import Buffer, Vector, Weights, aligned_vector


class NoOptimizer:
    """Steps nothing."""

    def __init__(self) -> None:
        self.parameters = aligned_vector(0)

    def step(self, gradient: Vector, norm: float | None = None) -> None:
        """Do nothing."""

    def state(self, *, copied: bool = True) -> dict[str, np.ndarray]:
        """Return no arrays."""
        return {}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Do nothing."""


class NoCodec:
    """Decodes nothing."""

    payload_bytes = 0
    state_bytes = 0
    agreed_count = 0

    def decode(self, messages: Sequence[Message], into: Vector) -> None:
        """Do nothing."""

    def agree(self, payloads: Sequence[Buffer]) -> Vector | None:
        """Return None: there are no messages to ask of."""
        return None

    def energies(self, payload: Buffer, agreed: Vector | None = None) -> NDArray[np.float64]:
        """Return nothing: there are no messages to ask of."""
        return np.zeros((0, 2))


class NoPublisher:
    """Counts what would be sent.

    Parameters
    ----------
    downlink : the recipe.
    optimizer : the optimizer's recipe, asked for the size of its state.
    d, payload_bytes, scales : parameters, bytes of a reply's payload, scales that are agreed on.
    """

    def __init__(self, downlink: Downlink, optimizer: OptimizerRecipe, d: int, payload_bytes: int, scales: int) -> None:
        self.version = 0
        self.model = aligned_vector(0)
        self._size: Callable[[Sequence[float]], int] = lambda weights: downlink.size(d, payload_bytes, scales, weights)
        if downlink.steps_replicas and steps_on_signs(optimizer):
            self._size = lambda weights: update_bytes(0, 0, signs_bytes(d))
        self.content: Content
        if not downlink.replicas:
            self._log: UpdateLog | None = None
            self.content = WholeContent(_nothing(downlink.size(d, 0, 0, [])))
            return
        state = {"state": _nothing(most_state_bytes(optimizer, d))} if downlink.steps_replicas else {}
        limit = 4 * d + sum(array.size for array in state.values())
        self.content = self._log = UpdateLog(np.broadcast_to(np.float32(0.0), (d,)), lambda: state, limit=limit, check_every=0)

    def step(self, gradient: Vector, messages: Sequence[Message], a: Weights, norm: float) -> None:
        """Note an update's size."""
        self.version += 1
        if self._log is not None:
            self._log.append(_nothing(self._size(a[a != 0.0].tolist())))

    def restart(self, version: int) -> None:
        """Never called: such a simulation is not resumed."""

    def state(self) -> dict[str, np.ndarray]:
        """Return no arrays."""
        return {}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Do nothing."""


def no_publishers(downlink: Downlink, optimizer: OptimizerRecipe, slices: Sequence[tuple[int, Codec]]) -> list[NoPublisher]:
    """Return the publisher of each slice, of which the coordinates and the codec are given. Slices that are alike share one."""
    alike: dict[tuple[int, int, int], NoPublisher] = {}
    sizes = [(d, codec.payload_bytes, codec.agreed_count) for d, codec in slices]
    return [alike.setdefault(size, NoPublisher(downlink, optimizer, *size)) for size in sizes]


class NoPublishers:
    """The publishers of all slices, each of them once."""

    def __init__(self, publishers: Sequence[NoPublisher]) -> None:
        self.model = publishers[0].model
        self._publishers = publishers

    @property
    def version(self) -> int:
        """That of all of them."""
        return self._publishers[0].version

    @property
    def content(self) -> Content:
        """One of them; the clock asks each."""
        return self._publishers[0].content

    def step(self, gradient: Vector, messages: Sequence[Message], a: Weights, norm: float) -> None:
        """Note the sizes of an update."""
        for publisher in self._publishers:
            publisher.step(gradient, messages, a, norm)

    def restart(self, version: int) -> None:
        """Never called: such a simulation is not resumed."""

    def state(self) -> dict[str, np.ndarray]:
        """Return no arrays."""
        return {}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Do nothing."""


def _nothing(nbytes: int) -> Buffer:
    """Return (nbytes,) zeros that take no memory."""
    return np.broadcast_to(np.uint8(0), (nbytes,))


class NoEvaluator:
    """Evaluates nothing."""

    def evaluate(self, parameters: Vector, *, train: bool) -> Evaluation:
        """Return no figures."""
        return Evaluation(None, None, None)


class NoCheckpointWriter:
    """Writes no checkpoints."""

    written = 0

    def ask(self) -> None:
        """Do nothing."""

    def begin(self, *, hold: bool = False) -> None:
        """Do nothing."""

    def look(self) -> None:
        """Do nothing."""

    def settle(self) -> None:
        """Do nothing."""

    def finish(self, *, interrupted: bool = False) -> None:
        """Do nothing."""

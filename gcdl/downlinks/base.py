"""What a downlink is: a recipe that makes the master's end (a publisher) and a worker's end (a follower).

Version t of the model is that of step t, before the step's gradient is applied. The publisher steps the optimizer, which turns
version t into t + 1. A task brings its worker from the version that it has to the newest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gcdl.compressors import Codec, Draw, Message
from gcdl.optimizers import OptimizerRecipe, for_layout
from gcdl.types import Buffer, IntVector, Layout, Vector, Weights

UNKNOWN = -1
"""The version of a worker that has no model yet, or a wrong one."""
HASH_BYTES = 8


@dataclass(frozen=True, eq=False)
class Ends:
    """What both ends of a downlink know.

    Attributes
    ----------
    layout : of the model.
    optimizer : makes the master's optimizer, and those of workers that step their own copy of the model.
    initial : makes the (d,) parameters that training starts from.
    codec : decodes the workers' messages.
    seed : the run's.
    shifts : (n,) places of the workers under correlated dither.
    finish : what a decoder does to the sum of the messages.
    memory : (d,) where the model is to lie, if it is a slice of a larger one; None: in memory of its own.
    """

    layout: Layout
    optimizer: OptimizerRecipe
    initial: Callable[[], Vector]
    codec: Codec
    seed: int
    shifts: IntVector
    finish: Callable[[Vector], None] = field(default=lambda gradient: None)
    memory: Vector | None = None

    @property
    def recipe(self) -> OptimizerRecipe:
        """The optimizer's recipe, for this layout."""
        return for_layout(self.optimizer, self.layout)

    def draw(self, step: int, worker: int, agreed: Vector | None) -> Draw:
        """Return what decoding a worker's message needs beside its bytes."""
        return Draw(self.seed, step, worker, int(self.shifts[worker]), agreed)


class Content(Protocol):
    """What a task carries to bring a worker's model up to date."""

    version: int
    """The version of the model that it leads to."""
    whole: Buffer | None
    """The whole content, if it is the same for every worker; None if it depends on the worker's version."""

    def nbytes(self, base: int) -> int:
        """Return its bytes for a worker that has version ``base`` of the model; -1: none."""
        ...

    def write(self, base: int, into: Buffer) -> None:
        """Write it, (nbytes(base),)."""
        ...


class Steps(Protocol):
    """What a publisher needs of an optimizer."""

    parameters: Vector

    def step(self, gradient: Vector, norm: float | None = None) -> None:
        """Update ``parameters`` in place; ``norm``: of the whole gradient, where this is a slice of it."""
        ...

    def state(self, *, copied: bool = True) -> dict[str, np.ndarray]:
        """Return its own arrays, by name. If they are not ``copied``, they change in the next step."""
        ...

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Begin with arrays that :meth:`state` returned."""
        ...


class Publisher(Protocol):
    """The master's end."""

    model: Vector
    """(d,): the model at which workers compute their gradients."""

    @property
    def version(self) -> int:
        """That of :attr:`model`."""
        ...

    @property
    def content(self) -> Content:
        """What a task carries now."""
        ...

    def step(self, gradient: Vector, messages: Sequence[Message], a: Weights, norm: float) -> None:
        """Step the optimizer with the decoded gradient, (d,), which the ``messages`` were decoded to, with weights a, (n,).

        ``messages`` is empty where no data move. ``norm``: Euclidean, of the gradient of the whole model.
        """
        ...

    def restart(self, version: int) -> None:
        """Go on with the optimizer's parameters as version ``version``."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of its own arrays, by name, for a checkpoint."""
        ...

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Begin with arrays that :meth:`state` returned."""
        ...


class Follower(Protocol):
    """A worker's end."""

    version: int
    """The version of the model it has; UNKNOWN: it has none, or a wrong one."""
    body_bytes: int
    """The largest content that a task can have."""
    in_place: bool
    """Whether every content is the whole model, which lies in the content itself."""
    wrong: bool
    """Whether what the last content brought turned out not to be the master's model."""

    def follow(self, content: Buffer) -> Vector | None:
        """Take in a task's content; return the model, (d,), valid until the next call; None: it has none, or a wrong one."""
        ...

    def damage(self) -> None:
        """Flip a bit of the model: an injected fault."""
        ...


class Downlink(Protocol):
    """The recipe."""

    @property
    def votes(self) -> bool:
        """Whether workers agree on their scales (``compressor.agreed``) where the config does not say."""
        ...

    @property
    def replicas(self) -> bool:
        """Whether workers hold the model, and tasks bring them updates."""
        ...

    @property
    def steps_replicas(self) -> bool:
        """Whether replicas step an optimizer of their own."""
        ...

    def publisher(self, ends: Ends, optimizer: Steps) -> Publisher:
        """Return the master's end: it steps ``optimizer``."""
        ...

    def follower(self, ends: Ends, *, fresh: bool) -> Follower:
        """Return a worker's end; ``fresh``: the run starts at its first step, so that the worker can make version 0 itself."""
        ...

    def size(self, d: int, payload_bytes: int, scales: int, weights: Sequence[float]) -> int:
        """Return the bytes of the model, or of an update, for d parameters and replies of these weights, without data."""
        ...


def fingerprint(parameters: Vector) -> bytes:
    """Return a hash of a (d,) vector, HASH_BYTES long."""
    return hashlib.blake2b(parameters.data, digest_size=HASH_BYTES).digest()


def flip_a_bit(parameters: Vector) -> None:
    """Flip a bit in the mantissa of the middle coordinate: it changes by about a tenth, which no rounding undoes."""
    parameters.view(np.uint32)[parameters.size // 2] ^= 1 << 20

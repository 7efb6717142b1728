"""What is trained: a finite sum over shards.

The objective is F(w) = sum_j (N_j / N) f_j(w), f_j the mean loss over shard j and N_j its number of samples. The gradient
of shard j is G_j = (N_j / N) grad of the mean loss over shard j's minibatch, so that the sum of all G_j estimates grad F.

*Replicas must agree.* The minibatch of shard j at step t is keyed (seed, shard, step), never by worker: two holders of a
shard compute the same G_j.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gcdl.types import IntVector, Layout, Sums, Vector, Weights

Samples = dict[int, Any]
"""Loaded shards by number. Each problem decides what the data of a shard are."""


@dataclass(frozen=True)
class Evaluation:
    """Losses are means over samples; None where the problem has no such figure."""

    train_loss: float | None
    test_loss: float | None
    test_accuracy: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The user's own figures of the test set, by name."""


def added_up(sums: Sums) -> list[float]:
    """Return the sums of the columns of (pieces, columns), added row by row: the same on every machine."""
    return np.cumsum(sums, axis=0)[-1].tolist()  # type: ignore[no-any-return]


class CodedGradient(Protocol):
    """One worker's part: its shards, loaded, and its row of B."""

    def compute(self, parameters: Vector, step: int, out: Vector) -> Generator[float, None, float]:
        """Compute C_i = sum_j B_ij G_j at ``parameters``, (d,), into ``out``, (d,).

        Yields before each stretch of work the number of shards it covers (a fraction for a part of one), so that the
        caller can give up in between. Returns the coded loss sum_j B_ij (N_j / N) f_j: the decoding vector that
        recovers the gradient recovers the training loss with it.
        """
        ...


class Evaluator(Protocol):
    """The master's part: the data to judge a model by."""

    def evaluate(self, parameters: Vector, *, train: bool) -> Evaluation:
        """Evaluate at ``parameters``, (d,); the loss over the whole training set only if ``train``."""
        ...


class Problem(Protocol):
    """Cheap to make on every rank; data are loaded by :meth:`load` (a worker's) and :meth:`evaluator` (the master's)."""

    k: int

    def layout(self) -> Layout:
        """Return the model's tensors as slices of a flat vector."""
        ...

    def initial_parameters(self) -> Vector:
        """Return the (d,) parameters that training starts from; the same on every rank."""
        ...

    def load(self, shards: IntVector) -> Samples:
        """Load these shards and keep no others.

        Raises
        ------
        DataError : a file is missing or not of its format.
        """
        ...

    def gradient(self, samples: Samples, shards: IntVector, weights: Weights) -> CodedGradient:
        """Return the coded gradient of ``shards`` (all of them loaded), whose entries in the worker's row are ``weights``."""
        ...

    def evaluator(self) -> Evaluator:
        """Load what evaluation needs.

        Raises
        ------
        DataError : a file is missing or not of its format.
        """
        ...

    def save(self, parameters: Vector, path: Path) -> None:
        """Write a trained model, (d,), so that plain ``torch.load`` and ``load_state_dict`` read it.

        Raises
        ------
        OSError : it can't be written.
        """
        ...


@runtime_checkable
class CutsTestSet(Protocol):
    """An evaluator whose test set is a number of pieces, so that several processes can evaluate one model together.

    ``evaluation(sums of all pieces)`` is ``evaluate(parameters, train=False)``, to the bit.
    """

    def pieces(self) -> int:
        """Return how many pieces there are; 0: there is no test set."""
        ...

    def columns(self) -> int:
        """Return how many figures are summed."""
        ...

    def sums(self, parameters: Vector, piece: int) -> Sums:
        """Return sums over a piece's samples at ``parameters``, (d,): (columns,), those of its figures."""
        ...

    def evaluation(self, sums: Sums) -> Evaluation:
        """Return the figures of the test set, whose pieces have these ``sums``, (pieces, columns), added up in their order."""
        ...


@runtime_checkable
class LooksAtItself(Protocol):
    """A problem that may be other than its user means."""

    def warnings(self) -> list[str]:
        """Return what is suspicious, a sentence each; asked once, on the master, before the first step."""
        ...


@runtime_checkable
class CountsSamples(Protocol):
    """A problem that knows how many samples a step uses."""

    def samples_used(self, step: int) -> IntVector:
        """Return the samples of each shard's minibatch, (k,); with local steps, of all of them together."""
        ...


@runtime_checkable
class MadeByHand(Protocol):
    """A problem that does not follow from the config alone, so that ranks could disagree about it."""

    def fingerprint(self) -> str:
        """Return what must be the same on every rank, as short text."""
        ...

    def hand_over(self) -> str:
        """Return rank 0's model before the first step, as text; "": every rank makes the same."""
        ...

    def take_over(self, model: str) -> None:
        """Begin with what :meth:`hand_over` returned on rank 0; before anything else is asked for."""
        ...

    def restart(self) -> None:
        """Go back to the model before the first step: what has been computed so far was a rehearsal."""
        ...

"""Evaluates a :class:`gcdl.problems.TorchProblem`: forward passes over the test set, and over the training set if asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from gcdl.problems.base import Evaluation, added_up
from gcdl.problems.nested import moved
from gcdl.problems.pass_context import PassContext, Score, score
from gcdl.problems.samples import Source
from gcdl.types import Sums, Vector


class TorchEvaluator:
    """Evaluates a model: see :class:`gcdl.problems.Evaluator`.

    Parameters
    ----------
    context : the model and the loss.
    train, test : the samples; ``test`` is None where there is no test set.
    metrics : figures of the test set, by name.
    """

    def __init__(self, context: PassContext, train: Source, test: Source | None, metrics: Mapping[str, Score]) -> None:
        self.context = context
        self.train = train
        self.test = test
        self.metrics = metrics

    def evaluate(self, parameters: Vector, *, train: bool) -> Evaluation:
        """Evaluate at ``parameters``, (d,), in the module's evaluation mode."""
        self._bind(parameters)
        train_loss = None
        if train:
            with self._undisturbed():
                sums = [self._sums(self.train, {}, piece) for piece in range(self._pieces_of(self.train))]
            train_loss = added_up(np.array(sums))[0] / self.train.size
        with self._undisturbed():
            found = self.evaluation(np.array([self._sums_of_test(piece) for piece in range(self.pieces())]))
        return replace(found, train_loss=train_loss)

    def pieces(self) -> int:
        """Return how many batches the test set has."""
        return 0 if self.test is None else self._pieces_of(self.test)

    def columns(self) -> int:
        """Return how many figures there are: the loss, and the metrics."""
        return 1 + len(self.metrics)

    def sums(self, parameters: Vector, piece: int) -> Sums:
        """Return the sums over a batch of the loss, and of each metric."""
        self._bind(parameters)
        with self._undisturbed():
            return self._sums_of_test(piece)

    def evaluation(self, sums: Sums) -> Evaluation:
        """Return the figures of the test set."""
        if self.test is None:
            return Evaluation(None, None, None)
        loss, *others = (total / self.test.size for total in added_up(sums))
        metrics = dict(zip(self.metrics, others, strict=True))
        return Evaluation(None, loss, metrics.get("accuracy"), {n: v for n, v in metrics.items() if n != "accuracy"})

    def _bind(self, parameters: Vector) -> None:
        self.context.module.bind(parameters)
        self.context.module.module.eval()

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Take no gradients, and begin with the same random numbers, in a block."""
        import torch

        with torch.no_grad(), self.context.seeded():
            yield

    def _pieces_of(self, source: Source) -> int:
        return -(-source.size // self.context.chunk)

    def _sums_of_test(self, piece: int) -> Sums:
        assert self.test is not None
        return self._sums(self.test, self.metrics, piece)

    def _sums(self, source: Source, metrics: Mapping[str, Score], piece: int) -> Sums:
        context = self.context
        start = piece * context.chunk
        rows = np.arange(start, min(start + context.chunk, source.size))
        inputs, target = context.prepared(source.whole().batch(rows))
        output = context.call(inputs, target)
        means = [float(context.score_loss(output, target))]
        if metrics and context.device.type != "cpu":
            output, target = moved((output, target), "cpu")
        means += [float(score(f"metrics.{name}", metric, output, target)) for name, metric in metrics.items()]
        return np.array([len(rows) * mean for mean in means])


def accuracy(output: Any, target: Any) -> Any:
    """Return the share of targets, (samples, ...), whose class has the largest output, (samples, classes, ...)."""
    return (output.argmax(dim=1) == target).float().mean()

"""Evaluates a :class:`gcdl.problems.TorchProblem`: forward passes over the test set, and over the training set if asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gcdl.problems.base import Evaluation
from gcdl.problems.nested import moved
from gcdl.problems.pass_context import PassContext, Score, score
from gcdl.problems.samples import Source
from gcdl.types import Vector


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
        self.context.module.bind(parameters)
        self.context.module.module.eval()
        train_loss = self._means(self.train, {})[0] if train else None
        if self.test is None:
            return Evaluation(train_loss, None, None)
        loss, metrics = self._means(self.test, self.metrics)
        return Evaluation(train_loss, loss, metrics.get("accuracy"), {n: v for n, v in metrics.items() if n != "accuracy"})

    def _means(self, source: Source, metrics: Mapping[str, Score]) -> tuple[float, dict[str, float]]:
        """Return the mean loss, and the metrics."""
        import torch

        context = self.context
        sums = dict.fromkeys(["", *metrics], 0.0)
        shard = source.whole()
        with torch.no_grad(), context.seeded():
            for start in range(0, source.size, context.chunk):
                rows = np.arange(start, min(start + context.chunk, source.size))
                inputs, target = context.prepared(shard.batch(rows))
                output = context.call(inputs, target)
                sums[""] += len(rows) * float(context.score_loss(output, target))
                if metrics and context.device.type != "cpu":
                    output, target = moved((output, target), "cpu")
                for name, metric in metrics.items():
                    sums[name] += len(rows) * float(score(f"metrics.{name}", metric, output, target))
        means = {name: total / source.size for name, total in sums.items()}
        return means.pop(""), means


def accuracy(output: Any, target: Any) -> Any:
    """Return the share of targets, (samples, ...), whose class has the largest output, (samples, classes, ...)."""
    return (output.argmax(dim=1) == target).float().mean()

"""Passes of a :class:`gcdl.problems.TorchProblem`: forward and backward for a worker's shards, forward for an evaluation.

The coded gradient is the gradient of *one* weighted sum of the shards' mean losses, sum_j B_ij (N_j / N) f_j, over the
concatenated minibatches: a pass for several shards. Two holders of a shard must agree, so a model that draws random numbers
(dropout) goes shard by shard, torch's, numpy's and Python's global generators seeded by (seed, shard, step); whether it draws
any is found out from its layers, and from the generator's state after a pass.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gcdl.errors import ParameterError
from gcdl.problems.base import Evaluation, minibatch
from gcdl.problems.samples import Rows, Shard, Source, cast, cut, join, moved
from gcdl.types import Stream, Vector, seed_words

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from gcdl.problems.torch_problem import BoundProblem, Score


class _Piece(NamedTuple):
    key: tuple[int, ...]  # (shard, step, number): what seeds it
    shard: Shard
    rows: Rows
    size: int
    share: float  # of its mean loss in the coded loss: B_ij (N_j / N) (its part of the minibatch)
    cost: float  # in shards


class TorchGradient:
    """The coded gradient of some shards: see :class:`gcdl.problems.CodedGradient`."""

    def __init__(self, problem: BoundProblem, shards: list[tuple[int, float, Shard]]) -> None:
        self.problem = problem
        self.shards = shards
        self.device = problem.place
        self._checked = False

    def compute(self, parameters: Vector, step: int, out: Vector) -> Generator[float, None, float]:
        """Compute it at ``parameters``, (d,), into ``out``, (d,)."""
        problem = self.problem
        _ = problem.layout()
        coded_loss, passes = 0.0, 0
        for pieces in self._passes(step):
            yield sum(piece.cost for piece in pieces)
            problem.module.bind(parameters)
            problem.module.module.train()
            while pieces:
                together = pieces if not problem.draws else pieces[:1]
                losses = self._losses(together)
                if losses is None:  # it drew random numbers: once more, shard by shard
                    continue
                pieces = pieces[len(together) :]
                coded_loss += sum(share * float(loss.detach()) for share, loss in losses)
                problem.module.backward(_sum(losses), out, add=passes > 0)
                passes += 1
        return coded_loss

    def _losses(self, pieces: list[_Piece]) -> list[tuple[float, Tensor]] | None:
        """Return each piece's share and mean loss; None if several were asked for and the model turns out to draw numbers."""
        import torch

        problem = self.problem
        batches = []
        for piece in pieces:
            with problem.seeded(*piece.key, 0):
                batches.append(piece.shard.batch(piece.rows))
        *inputs, target = join(batches)
        inputs = cast(inputs, problem.floating, self.device)
        target = cast(target, problem.floating, self.device, target=True)
        with problem.seeded(*pieces[0].key, 1):
            before = _generators(self.device)
            versions = self._versions()
            output = problem.call(inputs)
            self._refuse_notes(versions)
            if len(pieces) > 1 and not torch.equal(before, _generators(self.device)):
                problem.draws = True
                return None
            losses, start = [], 0
            for piece in pieces:
                rows = slice(start, start + piece.size)
                start = rows.stop
                part = (output, target) if len(pieces) == 1 else (cut(output, rows), cut(target, rows))
                losses.append((piece.share, problem.score("loss", problem.loss, *part)))
        return losses

    def _versions(self) -> list[int]:
        return [] if self._checked else [buffer._version for buffer in self.problem.module.module.buffers()]

    def _refuse_notes(self, versions: list[int]) -> None:
        """Raise ParameterError, once looked, if a pass in training has changed a buffer: the master would never hear of it."""
        if self._checked:
            return
        self._checked = True
        for (name, buffer), version in zip(self.problem.module.module.named_buffers(), versions, strict=False):
            if buffer._version != version:
                raise ParameterError(f"buffer {name!r} of the model changes in training; only parameters travel")

    def _passes(self, step: int) -> Iterator[list[_Piece]]:
        """Group the minibatches into passes: whole ones up to the chunk size, larger ones cut. Never depends on time."""
        gathered: list[_Piece] = []
        for piece in self._pieces(step):
            if gathered and sum(one.size for one in gathered) + piece.size > self.problem.given.chunk:
                yield gathered
                gathered = []
            gathered.append(piece)
        yield gathered

    def _pieces(self, step: int) -> Iterator[_Piece]:
        problem, chunk = self.problem, self.problem.given.chunk
        for j, weight, shard in self.shards:
            drawn = minibatch(shard.size, problem.given.batch_size, problem.seed, j, step)
            rows = np.arange(shard.size) if isinstance(drawn, slice) else drawn
            for number, start in enumerate(range(0, len(rows), chunk)):
                part = rows[start : start + chunk]
                cost = len(part) / len(rows)
                yield _Piece((j, step, number), shard, part, len(part), weight * shard.size / problem.source.size * cost, cost)


class TorchEvaluator:
    """Judges a model: see :class:`gcdl.problems.Evaluator`."""

    def __init__(self, problem: BoundProblem) -> None:
        self.problem = problem

    def evaluate(self, parameters: Vector, *, train: bool) -> Evaluation:
        """Evaluate at ``parameters``, (d,), in the module's evaluation mode."""
        problem = self.problem
        problem.module.bind(parameters)
        problem.module.module.eval()
        train_loss = self._judge(problem.source, {})[0] if train else None
        if problem.test is None:
            return Evaluation(train_loss, None, None)
        loss, metrics = self._judge(problem.test, problem.metrics)
        return Evaluation(train_loss, loss, metrics.get("accuracy"), {n: v for n, v in metrics.items() if n != "accuracy"})

    def _judge(self, source: Source, metrics: Mapping[str, Score]) -> tuple[float, dict[str, float]]:
        """Return the mean loss, and the metrics."""
        import torch

        problem = self.problem
        sums = dict.fromkeys(["", *metrics], 0.0)
        shard = source.whole()
        with torch.no_grad(), problem.seeded():
            for start in range(0, source.size, problem.given.chunk):
                rows = np.arange(start, min(start + problem.given.chunk, source.size))
                *inputs, target = shard.batch(rows)
                target = cast(target, problem.floating, problem.place, target=True)
                output = problem.call(cast(inputs, problem.floating, problem.place))
                sums[""] += len(rows) * float(problem.score("loss", problem.loss, output, target))
                if metrics and problem.place.type != "cpu":
                    output, target = moved((output, target), "cpu")
                for name, metric in metrics.items():
                    sums[name] += len(rows) * float(problem.score(f"metrics.{name}", metric, output, target))
        means = {name: total / source.size for name, total in sums.items()}
        return means.pop(""), means


def accuracy(output: Any, target: Any) -> Any:
    """Return the share of targets, (samples, ...), whose class has the largest output, (samples, classes, ...)."""
    return (output.argmax(dim=1) == target).float().mean()


@contextmanager
def seeded(seed: int, stream: Stream, *key: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python by the arguments alone, in this block; then put them back.

    torch's are the processors', and that of ``device`` if it is a GPU.
    """
    import torch

    words = seed_words(seed, stream, *key)
    held = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's transforms may draw from it
    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
        torch.manual_seed(words[0])
        random.seed(words[1])
        np.random.seed(words[1] & 0xFFFFFFFF)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(held[0])
            np.random.set_state(held[1])  # noqa: NPY002


def _generators(device: torch.device) -> Tensor:
    """Return the state of the generators that a model may draw from, (bytes,) uint8."""
    import torch

    state = torch.get_rng_state()
    return torch.cat([state, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else state


def _sum(losses: list[tuple[float, Tensor]]) -> Tensor:
    """Return the weighted sum of the losses."""
    total = losses[0][1] * losses[0][0]
    for share, loss in losses[1:]:
        total = total + loss * share
    return total

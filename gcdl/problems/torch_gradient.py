"""The coded gradient of a :class:`gcdl.problems.TorchProblem`: forward and backward passes over a worker's shards.

The coded gradient is the gradient of *one* weighted sum of the shards' mean losses, sum_j B_ij (N_j / N) f_j, over the
concatenated minibatches: a pass for several shards.

Two holders of a shard must agree. So a model that draws random numbers (dropout) goes shard by shard, with the global
generators of torch, numpy and Python seeded by (seed, shard, step). Whether a model draws is found out in two ways: from
its layers, and from the generators' states before and after a pass.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gcdl.problems.minibatches import minibatch
from gcdl.problems.nested import cut, join
from gcdl.problems.pass_context import PassContext, score
from gcdl.problems.samples import Rows, Shard
from gcdl.problems.seeding import generator_state
from gcdl.types import Vector

if TYPE_CHECKING:
    from torch import Tensor


class WeightedShard(NamedTuple):
    """A shard that a worker holds.

    ``weight`` is of its mean loss in the coded loss: B_ij (N_j / N).
    """

    number: int
    weight: float
    samples: Shard


class _Piece(NamedTuple):
    key: tuple[int, ...]  # (shard, step, number): what seeds it
    shard: Shard
    rows: Rows
    size: int
    share: float  # of its mean loss in the coded loss: B_ij (N_j / N) (its part of the minibatch)
    cost: float  # in shards


class TorchGradient:
    """The coded gradient of some shards: see :class:`gcdl.problems.CodedGradient`.

    Parameters
    ----------
    context : the model and the loss.
    shards : the worker's, with their weights.
    batch_size : samples per shard and step; 0: the whole shard.
    draws : whether a layer is known to draw random numbers.
    """

    def __init__(self, context: PassContext, shards: Sequence[WeightedShard], batch_size: int, *, draws: bool) -> None:
        self.context = context
        self.shards = shards
        self.batch_size = batch_size
        self.device = context.device
        self.draws = draws
        self._began = False

    def compute(self, parameters: Vector, step: int, out: Vector) -> Generator[float, None, float]:
        """Compute it at ``parameters``, (d,), into ``out``, (d,)."""
        module = self.context.module
        coded_loss, passes = 0.0, 0
        for pieces in self._passes(step):
            yield sum(piece.cost for piece in pieces)
            bound = parameters if self._began else parameters.copy()
            module.bind(bound)
            module.module.train()
            while pieces:
                together = pieces if not self.draws else pieces[:1]
                losses = self._losses(together)
                self._refuse_change(parameters, bound)
                if losses is None:  # the model drew random numbers: once more, shard by shard
                    continue
                pieces = pieces[len(together) :]
                coded_loss += sum(share * float(loss.detach()) for share, loss in losses)
                module.backward(_sum(losses), out, add=passes > 0)
                passes += 1
        return coded_loss

    def _losses(self, pieces: list[_Piece]) -> list[tuple[float, Tensor]] | None:
        """Return each piece's share and mean loss; None for several pieces of a model that turns out to draw numbers."""
        import torch

        context = self.context
        batches = []
        for piece in pieces:
            with context.seeded(*piece.key, 0):
                batches.append(piece.shard.batch(piece.rows))
        *inputs, target = join(batches)
        inputs, target = context.inputs(inputs), context.target(target)
        with context.seeded(*pieces[0].key, 1):
            before = generator_state(self.device)
            output = context.call(inputs)
            if len(pieces) > 1 and not torch.equal(before, generator_state(self.device)):
                self.draws = True
                return None
            losses, start = [], 0
            for piece in pieces:
                rows = slice(start, start + piece.size)
                start = rows.stop
                part = (output, target) if len(pieces) == 1 else (cut(output, rows), cut(target, rows))
                losses.append((piece.share, score("loss", context.loss, *part)))
        return losses

    def _refuse_change(self, parameters: Vector, bound: Vector) -> None:
        """Compare a copy, which the first pass computes at, with the parameters.

        A write by way of ``parameter.data`` is counted nowhere. It would end the process where the parameters are read-only.
        """
        if not self._began:
            changed = np.flatnonzero(bound.view(np.uint32) != parameters.view(np.uint32))
            if changed.size:
                self.context.writes.refuse(self.context.module.layout.tensor_at(int(changed[0])))
            self._began = True

    def _passes(self, step: int) -> Iterator[list[_Piece]]:
        """Group the minibatches into passes: whole ones up to the chunk size, larger ones cut. Never depends on time."""
        gathered: list[_Piece] = []
        for piece in self._pieces(step):
            if gathered and sum(one.size for one in gathered) + piece.size > self.context.chunk:
                yield gathered
                gathered = []
            gathered.append(piece)
        yield gathered

    def _pieces(self, step: int) -> Iterator[_Piece]:
        chunk = self.context.chunk
        for j, weight, shard in self.shards:
            drawn = minibatch(shard.size, self.batch_size, self.context.seed, j, step)
            rows = np.arange(shard.size) if isinstance(drawn, slice) else drawn
            for number, start in enumerate(range(0, len(rows), chunk)):
                part = rows[start : start + chunk]
                cost = len(part) / len(rows)
                yield _Piece((j, step, number), shard, part, len(part), weight * cost, cost)


def _sum(losses: list[tuple[float, Tensor]]) -> Tensor:
    """Return the weighted sum of the losses."""
    total = losses[0][1] * losses[0][0]
    for share, loss in losses[1:]:
        total = total + loss * share
    return total

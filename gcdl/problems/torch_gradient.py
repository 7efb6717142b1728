"""The coded gradient of a :class:`gcdl.problems.TorchProblem`: forward and backward passes over a worker's shards.

The coded gradient is the gradient of *one* weighted sum of the shards' mean losses, sum_j B_ij (N_j / N) f_j, over the
concatenated minibatches: a pass for several shards.

Two holders of a shard must agree. So a model that draws random numbers (dropout) goes shard by shard, with the global
generators of torch, numpy and Python seeded by (seed, shard, step). Whether a model draws is found out in two ways: from
its layers, and from the generators' states before and after a pass. Shards also go apart where their batches differ in
shape, or where the output is not a tensor with a row a sample (a model that returns its loss).
"""

from __future__ import annotations

import faulthandler
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gcdl.problems.batch_loader import BatchLoader
from gcdl.problems.minibatches import Minibatches
from gcdl.problems.nested import can_join, cut, is_batch, join
from gcdl.problems.pass_context import PassContext
from gcdl.problems.pieces import Piece, WeightedShard, passes_of, pieces_of
from gcdl.problems.samples import Batch
from gcdl.problems.seeding import generator_state
from gcdl.types import Vector

if TYPE_CHECKING:
    from torch import Tensor

    _ShareOfLoss = tuple[float, Tensor]


class TorchGradient:
    """The coded gradient of some shards: see :class:`gcdl.problems.CodedGradient`.

    Parameters
    ----------
    context : the model and the loss.
    shards : the worker's, with their weights.
    minibatches : draws a step's samples.
    loader : makes batches of them.
    apart : whether each shard is known to need a pass of its own, as a model that draws random numbers does.
    """

    def __init__(
        self,
        context: PassContext,
        shards: Sequence[WeightedShard],
        minibatches: Minibatches,
        loader: BatchLoader,
        *,
        apart: bool,
    ) -> None:
        self.context = context
        self.shards = shards
        self.minibatches = minibatches
        self.loader = loader
        self.device = context.device
        self.apart = apart
        self._began = False
        if not faulthandler.is_enabled():
            faulthandler.enable()  # the model may lie where it can't be written: then this says which line tried to

    def compute(self, parameters: Vector, step: int, out: Vector) -> Generator[float, None, float]:
        """Compute it at ``parameters``, (d,), into ``out``, (d,)."""
        module, chunk = self.context.module, self.context.chunk
        coming = list(pieces_of(self.shards, self.minibatches, step, chunk))
        if self.loader.ahead:
            self.loader.ask([*coming, *pieces_of(self.shards, self.minibatches, step + 1, chunk)])
        coded_loss, passes = 0.0, 0
        for pieces in passes_of(coming, chunk):
            yield sum(piece.cost for piece in pieces)
            bound = parameters if self._began or self.device.type != "cpu" else parameters.copy()
            module.bind(bound)
            module.module.train()
            for losses in self._losses(pieces):
                self._refuse_change(parameters, bound)
                coded_loss += sum(share * float(loss.detach()) for share, loss in losses)
                module.backward(_sum(losses), out, add=passes > 0)
                passes += 1
        return coded_loss

    def _losses(self, pieces: list[Piece]) -> Iterator[list[_ShareOfLoss]]:
        """Yield the pieces' shares and mean losses: all from one pass, or each from a pass of its own."""
        batches = [self.loader.take(piece) for piece in pieces]
        together = None
        if len(pieces) > 1 and not self.apart and can_join(batches, [piece.size for piece in pieces]):
            together = self._together(pieces, batches)
        if together is not None:
            yield together
            return
        for piece, batch in zip(pieces, batches, strict=True):
            with self.context.seeded(*piece.key, 1):
                inputs, target = self.context.prepared(batch)
                output = self.context.call(inputs, target)
                yield [(piece.share, self.context.score_loss(output, target))]

    def _together(self, pieces: list[Piece], batches: list[Batch]) -> list[_ShareOfLoss] | None:
        """Return all losses from one pass; None if the model turns out to draw numbers, or its output can't be cut."""
        import torch

        context = self.context
        inputs, target = context.prepared(join(batches))
        with context.seeded(*pieces[0].key, 1):
            before = generator_state(self.device)
            output = context.call(inputs, target)
            drew = not torch.equal(before, generator_state(self.device))
            if drew or not is_batch(output, sum(piece.size for piece in pieces)):
                self.apart = True
                return None
            losses, start = [], 0
            for piece in pieces:
                rows = slice(start, start + piece.size)
                start = rows.stop
                losses.append((piece.share, context.score_loss(cut(output, rows), cut(target, rows))))
        return losses

    def _refuse_change(self, parameters: Vector, bound: Vector) -> None:
        """Compare a copy, which the first pass computes at, with the parameters.

        A write by way of ``parameter.data`` is counted nowhere. It would end the process where the parameters are read-only.
        """
        if bound is not parameters:
            changed = np.flatnonzero(bound.view(np.uint32) != parameters.view(np.uint32))
            if changed.size:
                self.context.writes.refuse(self.context.module.layout.tensor_at(int(changed[0])))
        self._began = True


def _sum(losses: list[tuple[float, Tensor]]) -> Tensor:
    """Return the weighted sum of the losses."""
    total = losses[0][1] * losses[0][0]
    for share, loss in losses[1:]:
        total = total + loss * share
    return total

"""Draws a worker's batches: when they are needed, or ahead of that in processes of their own (``num_workers``).

Such a process is given the shards by fork, so a data set need not be picklable. It draws what the worker asks for: the
batches of a step, and those of the next one, under the same seeds as the worker itself. So the batches are the same.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from gcdl.errors import DataError
from gcdl.host.processes import birth, when_gone
from gcdl.problems.nested import mapped
from gcdl.problems.pieces import Piece
from gcdl.problems.samples import Batch, Rows, Shard
from gcdl.problems.seeding import seeded
from gcdl.types import Stream


class LoaderProcesses:
    """The processes that draw batches for this rank's worker; they begin with the first request.

    Parameters
    ----------
    number : of processes.
    seed : the run's.
    """

    def __init__(self, number: int, seed: int) -> None:
        self._number = number
        self._seed = seed
        self._shards: dict[int, Shard] = {}
        self._executor: ProcessPoolExecutor | None = None

    def hold(self, shards: Mapping[int, Shard]) -> None:
        """Add shards that will be asked for, by number. Processes that do not have them are replaced at the next request."""
        if any(self._shards.get(number) is not shard for number, shard in shards.items()):
            self._shards |= shards
            if self._executor is not None:
                self._executor.shutdown(wait=False)
                self._executor = None

    def submit(self, piece: Piece) -> Future[Any]:
        """Ask for the batch of a piece of a shard that is held."""
        if self._executor is None:
            me = os.getpid()
            self._executor = ProcessPoolExecutor(
                self._number, multiprocessing.get_context("fork"), _become_loader, (dict(self._shards), me, birth(me))
            )
            weakref.finalize(self, self._executor.shutdown, wait=False, cancel_futures=True)
        return self._executor.submit(_draw, self._seed, piece.key, piece.rows)


class BatchLoader:
    """Draws the batches of one coded gradient.

    Parameters
    ----------
    seed : the run's.
    processes : draw ahead; None: batches are drawn when they are needed.
    """

    def __init__(self, seed: int, processes: LoaderProcesses | None) -> None:
        self._seed = seed
        self._processes = processes
        self._asked: dict[tuple[int, ...], Future[Any]] = {}

    @property
    def ahead(self) -> bool:
        """Whether batches are drawn ahead."""
        return self._processes is not None

    def ask(self, pieces: Sequence[Piece]) -> None:
        """Have these drawn, and forget what else was asked for: a worker may skip steps."""
        if self._processes is None:
            return
        wanted = {piece.key for piece in pieces}
        for key in self._asked.keys() - wanted:
            self._asked.pop(key).cancel()
        for piece in pieces:
            if piece.key not in self._asked:
                self._asked[piece.key] = self._processes.submit(piece)

    def take(self, piece: Piece) -> Batch:
        """Return a piece's batch.

        Raises
        ------
        DataError : a process that draws batches has ended.
        """
        if piece.key not in self._asked:
            return drawn(self._seed, piece.key, piece.shard, piece.rows)
        try:
            batch = self._asked.pop(piece.key).result()
        except BrokenProcessPool:
            raise DataError(
                "num_workers: a process that draws batches has ended; was there too little memory? num_workers = 0 draws in "
                "the worker itself"
            ) from None
        return tuple(mapped(_as_tensor, batch))


def drawn(seed: int, key: tuple[int, ...], shard: Shard, rows: Rows) -> Batch:
    """Return the batch of these rows, drawn under the seed of ``key``, (shard, step, number)."""
    with seeded(seed, Stream.LAYERS, *key, 0):
        return shard.batch(rows)


_shards: dict[int, Shard] = {}
"""In a loader process: the shards that it draws from, by number."""


def _become_loader(shards: dict[int, Shard], parent: int, born: int) -> None:
    """Begin as a loader process: computing in one thread, deaf to Ctrl-C, and gone when the worker is."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    when_gone(parent, born, lambda: os._exit(0))
    _shards.update(shards)


def _draw(seed: int, key: tuple[int, ...], rows: Rows) -> Any:
    """Return a batch with arrays for its tensors: those travel as bytes, and leave nothing in shared memory."""
    return mapped(_as_array, drawn(seed, key, _shards[key[0]], rows))


def _as_array(leaf: Any) -> Any:
    import torch

    return leaf.numpy() if isinstance(leaf, torch.Tensor) and leaf.dtype is not torch.bfloat16 else leaf


def _as_tensor(leaf: Any) -> Any:
    """Return an array as a tensor in memory of torch's own: on a boundary that makes every rank round alike."""
    import torch

    return torch.from_numpy(leaf).clone() if isinstance(leaf, np.ndarray) else leaf

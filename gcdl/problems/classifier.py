"""Image classification: cross-entropy of a ``torch.nn`` model on a data set cut into k shards.

The coded gradient is the gradient of *one* weighted loss over the concatenated minibatches of all of a worker's shards:
sample weights B_ij N_j / (N b_j), b_j the minibatch's size. One backward pass instead of one a shard.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from gcdl.errors import ParameterError
from gcdl.problems.base import CodedGradient, Evaluation, Samples, added_up
from gcdl.problems.datasets import DATASETS, Dataset, Images, Labels, Part
from gcdl.problems.device import AutocastName, DeviceName, autocast_block, choose, placed
from gcdl.problems.local_steps import LocalSteps, MakeLocal
from gcdl.problems.minibatches import Minibatches, Sampling, shard_indices
from gcdl.types import Count, IntVector, Layout, Natural, Stream, Sums, Vector, Weights, rng_for

if TYPE_CHECKING:
    import torch

    from gcdl.problems.flat import FlatModule

_EVALUATION_BATCH = 1000


class Classifier:
    """Image classification.

    Parameters
    ----------
    dataset, data : which data set, and the folder of its files where it needs one.
    model, hidden : which model, and the widths of its hidden layers.
    batch_size : b, samples per shard and step; 0: the whole shard.
    sampling : how minibatches are drawn; see :class:`gcdl.problems.minibatches.Minibatches`.
    device, autocast : where PyTorch computes, and in which precision; see :mod:`gcdl.problems.device`.
    local_steps, local_optimizer : steps of a worker's own; see :mod:`gcdl.problems.local_steps`.
    """

    needs_torch = True
    """Ranks import it at once, while rank 0 loads its data."""

    def __init__(
        self,
        k: int,
        seed: int,
        *,
        dataset: Literal["digits", "fashion_mnist"] = "digits",
        data: str = "",
        model: Literal["linear", "mlp", "cnn"] = "mlp",
        hidden: tuple[Count, ...] = (256,),
        batch_size: Natural = 32,
        sampling: Sampling = "independent",
        device: DeviceName = "auto",
        autocast: AutocastName | None = None,
        local_steps: int = 1,
        local_optimizer: MakeLocal | None = None,
    ) -> None:
        self.k = k
        self.seed = seed
        self.dataset = dataset
        self.data = data
        self.model = model
        self.hidden = hidden
        self.batch_size = batch_size
        self.minibatches = Minibatches(batch_size, sampling, seed)
        self.device = device
        self.autocast = autocast
        self.local = LocalSteps(local_steps, local_optimizer)

    @cached_property
    def source(self) -> Dataset:
        """The data set, opened on first use."""
        return DATASETS[self.dataset](self.data)

    @cached_property
    def partition(self) -> list[IntVector]:
        """The sample numbers of each shard."""
        if self.k > self.source.train_size:
            raise ParameterError(
                f"problem.shards: {self.k} shards, but {self.dataset} has only {self.source.train_size} training samples"
            )
        return shard_indices(self.source.train_size, self.k, self.seed)

    @cached_property
    def _sizes(self) -> IntVector:
        return np.array([len(indices) for indices in self.partition])

    @cached_property
    def module(self) -> FlatModule:
        """The model, bound to flat vectors. torch is imported here: a config can be checked without it."""
        from gcdl.problems import models
        from gcdl.problems.flat import FlatModule

        seed = int(rng_for(self.seed, Stream.MODEL).integers(1 << 62))
        flat = FlatModule(models.build(self.model, self.source.shape, self.source.classes, self.hidden, seed))
        return placed(flat, self.place)

    @cached_property
    def place(self) -> torch.device:
        """Where this rank computes."""
        return choose(self.device)

    def layout(self) -> Layout:
        """Return the model's tensors, in ``named_parameters`` order."""
        return self.module.layout

    def initial_parameters(self) -> Vector:
        """Return torch's default initialisation under this seed."""
        return self.module.gather()

    def load(self, shards: IntVector) -> Samples:
        """Copy these shards' samples out of the training set, and let go of the rest."""
        train = self.source.load_train()
        return {int(j): train.take(self.partition[int(j)]) for j in shards}

    def gradient(self, samples: Samples, shards: IntVector, weights: Weights) -> CodedGradient:
        """Return the coded gradient of these shards."""
        shares = np.array([len(samples[int(j)].labels) / self.source.train_size for j in shards])
        return self.local.gradient(partial(_CodedGradient, self, samples), shards, weights, shares, self.layout().size)

    def samples_used(self, step: int) -> IntVector:
        """Return how many samples a step uses of each shard, (k,)."""
        return self.local.samples_used(self.minibatches, self._sizes, step)

    def evaluator(self) -> _Evaluator:
        """Load the test set, without torch; the training set is loaded when its loss is asked for."""
        _ = self.partition
        return _Evaluator(self)

    def save(self, parameters: Vector, path: Path) -> None:
        """Write the state dict of :func:`gcdl.problems.models.build`'s module."""
        self.module.save(parameters, path)


class _Piece(NamedTuple):
    images: Images
    labels: Labels
    weight: float  # of each sample
    cost: float  # in shards


class _CodedGradient:
    def __init__(self, problem: Classifier, samples: Samples, shards: IntVector, weights: Weights) -> None:
        from gcdl.problems import models

        self.problem = problem
        self.shards = [(int(j), float(weight), samples[int(j)]) for j, weight in zip(shards, weights, strict=True)]
        self.chunk = models.CHUNK[problem.model]
        self.device = problem.place

    def compute(self, parameters: Vector, step: int, out: Vector) -> Generator[float, None, float]:
        from torch.nn.functional import cross_entropy

        module = self.problem.module
        coded_loss = 0.0
        for number, pieces in enumerate(self._chunks(step)):
            yield sum(piece.cost for piece in pieces)
            x, y = _tensors(self.problem, [(piece.images, piece.labels) for piece in pieces])
            weights = np.concatenate([np.full(len(piece.labels), piece.weight, np.float32) for piece in pieces])
            module.bind(parameters)
            with autocast_block(self.device, self.problem.autocast):
                losses = cross_entropy(module.module(x), y, reduction="none")
            coded_loss += float(np.dot(losses.detach().cpu().numpy().astype(np.float64), weights))
            module.backward(losses @ _from_numpy(weights).to(self.device), out, add=number > 0)
        return coded_loss

    def _chunks(self, step: int) -> Iterator[list[_Piece]]:
        """Group the minibatches into passes: whole ones up to the chunk size, larger ones cut. Never depends on time."""
        gathered: list[_Piece] = []
        for piece in self._pieces(step):
            if gathered and sum(len(g.labels) for g in gathered) + len(piece.labels) > self.chunk:
                yield gathered
                gathered = []
            gathered.append(piece)
        yield gathered

    def _pieces(self, step: int) -> Iterator[_Piece]:
        problem = self.problem
        for j, weight, part in self.shards:
            batch = problem.minibatches.rows(j, len(part.labels), step)
            images, labels = part.images[batch], part.labels[batch]
            size = len(labels)
            per_sample = weight * len(part.labels) / (problem.source.train_size * size)
            for start in range(0, size, self.chunk):
                cut = slice(start, min(start + self.chunk, size))
                yield _Piece(images[cut], labels[cut], per_sample, (cut.stop - cut.start) / size)


class _Evaluator:
    def __init__(self, problem: Classifier) -> None:
        self.problem = problem
        self.test = problem.source.load_test()

    @cached_property
    def train(self) -> Part:
        return self.problem.source.load_train()

    def evaluate(self, parameters: Vector, *, train: bool) -> Evaluation:
        train_loss = None
        if train:
            sums = [self._sums(parameters, self.train, piece) for piece in range(_pieces_of(self.train))]
            train_loss = added_up(np.array(sums))[0] / len(self.train.labels)
        found = self.evaluation(np.array([self.sums(parameters, piece) for piece in range(self.pieces())]))
        return replace(found, train_loss=train_loss)

    def pieces(self) -> int:
        return _pieces_of(self.test)

    def columns(self) -> int:
        return 2

    def sums(self, parameters: Vector, piece: int) -> Sums:
        """Return the sum of the losses, and the number of labels that are right."""
        return self._sums(parameters, self.test, piece)

    def evaluation(self, sums: Sums) -> Evaluation:
        loss, right = added_up(sums)
        return Evaluation(None, loss / len(self.test.labels), right / len(self.test.labels))

    def _sums(self, parameters: Vector, part: Part, piece: int) -> Sums:
        import torch
        from torch.nn.functional import cross_entropy

        self.problem.module.bind(parameters)
        cut = slice(piece * _EVALUATION_BATCH, (piece + 1) * _EVALUATION_BATCH)
        with torch.no_grad():
            x, y = _tensors(self.problem, [(part.images[cut], part.labels[cut])])
            with autocast_block(self.problem.place, self.problem.autocast):
                scores = self.problem.module.module(x)
                loss = float(cross_entropy(scores, y, reduction="sum"))
        return np.array([loss, float((scores.argmax(dim=1) == y).sum())])


def _pieces_of(part: Part) -> int:
    return -(-len(part.labels) // _EVALUATION_BATCH)


def _from_numpy(array: np.ndarray):  # type: ignore[no-untyped-def]
    import torch

    return torch.from_numpy(array)


def _tensors(problem: Classifier, parts: list[tuple[Images, Labels]]):  # type: ignore[no-untyped-def]
    """Return images, (samples, 1, height, width) float32 around [-1, 1], and labels as tensors."""
    images = np.concatenate([images for images, _ in parts]).astype(np.float32)
    images *= np.float32(2.0 / problem.source.brightest)
    images -= np.float32(1.0)
    tensors = _from_numpy(images[:, np.newaxis]), _from_numpy(np.concatenate([labels for _, labels in parts]))
    return tuple(tensor.to(problem.place) for tensor in tensors)

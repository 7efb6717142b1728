"""A problem from any ``torch.nn.Module``, loss function and samples.

:class:`TorchProblem` is what a user states. :class:`BoundProblem` is the same for a number of shards and a seed.
:mod:`gcdl.problems.torch_gradient` and :mod:`gcdl.problems.torch_evaluator` do the computing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from gcdl.errors import ParameterError
from gcdl.problems.base import CodedGradient, Samples
from gcdl.problems.batch_loader import BatchLoader, LoaderProcesses
from gcdl.problems.device import AutocastName, DeviceName, choose, placed
from gcdl.problems.local_steps import LocalSteps
from gcdl.problems.loss_check import sum_warning
from gcdl.problems.minibatches import Minibatches, Sampling, shard_indices
from gcdl.problems.pass_context import PassContext, Score
from gcdl.problems.pieces import WeightedShard
from gcdl.problems.rank_agreement import fingerprint, load_state, state_as_text
from gcdl.problems.samples import Collate, Source, source_of
from gcdl.problems.seeding import seeded
from gcdl.problems.torch_evaluator import TorchEvaluator, accuracy
from gcdl.problems.torch_gradient import TorchGradient
from gcdl.types import IntVector, Layout, Stream, Vector, Weights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from gcdl.problems.flat import FlatModule


_NO_FLOAT16 = (
    "autocast: 'float16': small gradients would become zero; a GradScaler prevents that by a scale that goes by each worker's "
    "own overflows, so that holders of a shard would disagree; take 'bfloat16', which needs none"
)


@dataclass(frozen=True, eq=False, repr=False)
class TorchProblem:
    """Train a ``torch.nn.Module`` on samples that are cut into shards.

    Parameters
    ----------
    model : the module (rank 0's is everybody's), compiled or not; or a function that makes one, called under the run's seed.
    loss : ``loss(output, target)``, the mean over the samples (or one number a sample). ``output`` is what the model returns.
    data : the training set; see below.
    test : the same, for evaluation; None: there is none.
    batch_size : samples per shard and step; 0: the whole shard.
    metrics : figures of the test set by name, ``metric(output, target)`` the mean over the samples. ``"accuracy"`` is
        ``test_accuracy`` in the records; it is there by itself where the loss is a cross-entropy.
    chunk : samples in one forward and backward pass, of several shards or of a part of one. It is what others call gradient
        accumulation: a smaller one takes less memory, and gives the same gradient but for rounding.
    device : where each rank computes: ``"auto"`` (a GPU where PyTorch sees one), ``"cpu"``, ``"cuda"``. Batches are moved
        there, and so is a loss that is a module; metrics are given what is on the CPU. The module stays there after a run.
    autocast : ``"bfloat16"``: passes compute in it what they can (``torch.autocast``); parameters and gradients stay float32.
    sampling : how minibatches are drawn: ``"independent"`` for each step, or in ``"epoch"``: every sample of a shard once.
    local_steps : H: in each step a worker takes H steps of its own, and sends how far they led; 1: it sends the gradient;
        ``"auto"``: the run chooses. See :mod:`gcdl.problems.local_steps`.
    local_optimizer : takes the local steps: a table as of ``[optimizer]``, or a function that makes a torch optimizer for a
        list of parameters.
    collate_fn : makes a batch of a list of samples, as in a ``torch.utils.data.DataLoader``.
    num_workers : processes of each rank that draw a step's batches, and meanwhile those of the next; 0: the worker draws them
        itself, when it needs them. The batches are the same.

    Data
    ----
    A tuple of arrays or tensors ``(x, y)`` has a row a sample; memory-mapped ones are read by rows. A map-style
    ``torch.utils.data.Dataset``, or a list, has tuples or dicts for samples.

    A tuple is ``(inputs, ..., target)``. The model is called with the inputs; with a dict's entries by name if there is one
    input, and that is a dict. Of a sample that is a dict as a whole, the model is given by name the entries that its
    ``forward`` takes, and the loss and the metrics are called as ``loss(output, batch)``, with all entries.
    Floating-point inputs are given in the model's type, a target's integers as int64.

    Raises
    ------
    ParameterError : when it is used: a layer mixes samples (BatchNorm), no parameter requires a gradient, a parameter is of an
        unsupported type, ``data`` or ``test`` are no samples, or fewer than there are shards; ``"cuda"``, and there is no GPU.

    Notes
    -----
    Parameters that require no gradient stay as they are, and do not travel; tied ones travel once. Parameters are float32 on
    the wire and in the optimizer; float64, bfloat16 and float16 ones are rounded copies of that. A GPU rounds otherwise than a
    processor, and draws other random numbers: dropout is the same for every holder of a shard if all compute on the same kind.

    >>> import numpy as np, torch, gcdl
    >>> x = np.linspace(-1.0, 1.0, 64).reshape(-1, 1)
    >>> problem = gcdl.TorchProblem(lambda: torch.nn.Linear(1, 1), torch.nn.functional.mse_loss, (x, 3.0 * x), batch_size=0)
    >>> bound = problem.bind(k=4, seed=0)
    >>> bound.layout().names, bound.layout().size
    (('weight', 'bias'), 2)
    """

    model: nn.Module | Callable[[], nn.Module]
    loss: Score
    data: Any
    test: Any = None
    batch_size: int = 32
    metrics: Mapping[str, Score] | None = None
    chunk: int = 256
    device: DeviceName = "auto"
    autocast: AutocastName | None = None
    sampling: Sampling = "independent"
    collate_fn: Collate | None = None
    local_steps: int | Literal["auto"] = 1
    local_optimizer: Any = None
    num_workers: int = 0

    def __post_init__(self) -> None:
        if not callable(self.model):
            raise ParameterError(f"model: {self.model!r}; take a torch.nn.Module, or a function that makes one")
        _check_function("loss", self.loss)
        for name, metric in (self.metrics or {}).items():
            _check_function(f"metrics.{name}", metric)
        for name, least in (("batch_size", 0), ("chunk", 1), ("local_steps", 1), ("num_workers", 0)):
            value = getattr(self, name)
            if name == "local_steps" and isinstance(value, str):
                if value != "auto":
                    raise ParameterError(f"{name}: {value!r}; a number, or 'auto'")
            elif value < least:
                raise ParameterError(f"{name}: {value}; at least {least}")
        if self.collate_fn is not None:
            _check_function("collate_fn", self.collate_fn)
        for name, known in (("device", DeviceName), ("sampling", Sampling), ("autocast", AutocastName)):
            value = getattr(self, name)
            if name == "autocast" and value == "float16":
                raise ParameterError(_NO_FLOAT16)
            if value not in get_args(known) and not (name == "autocast" and value is None):
                raise ParameterError(f"{name}: {value!r}; there are: {', '.join(get_args(known))}")

    def __repr__(self) -> str:
        model, loss = (getattr(part, "__name__", type(part).__name__) for part in (self.model, self.loss))
        metrics = f", metrics {', '.join(self.metrics)}" if self.metrics else ""
        data, test = (_size_of(part) for part in (self.data, self.test))
        return (
            f"TorchProblem: {model}, loss {loss}{metrics}\n"
            f"  data: {data}; test: {test}\n"
            f"  batch_size {self.batch_size}, chunk {self.chunk}, sampling {self.sampling!r}, device {self.device!r}"
        )

    def bind(self, k: int, seed: int) -> BoundProblem:
        """Return the problem with its samples cut into ``k`` shards under ``seed``.

        Raises
        ------
        ParameterError : the number of local steps is left open: a :class:`gcdl.Trainer` chooses it.
        """
        return BoundProblem(self, k, seed)


class BoundProblem:
    """A :class:`TorchProblem` whose shards are fixed; see :class:`gcdl.problems.Problem`."""

    def __init__(self, given: TorchProblem, k: int, seed: int) -> None:
        self.given = given
        self.k = k
        self.seed = seed
        if given.local_steps == "auto":
            raise ParameterError("local_steps: 'auto'; a run chooses the number, by gcdl.Trainer")
        make = given.local_optimizer
        self.local = LocalSteps(given.local_steps, getattr(make, "torch_optimizer", make))

    @cached_property
    def source(self) -> Source:
        """The training set."""
        return source_of(self.given.data, "data", self.given.collate_fn)

    @cached_property
    def test(self) -> Source | None:
        """The test set."""
        return None if self.given.test is None else source_of(self.given.test, "test", self.given.collate_fn)

    @cached_property
    def partition(self) -> list[IntVector]:
        """The sample numbers of each shard."""
        if self.k > self.source.size:
            raise ParameterError(f"data: {self.source.size} samples are too few for {self.k} shards")
        return shard_indices(self.source.size, self.k, self.seed)

    @cached_property
    def _sizes(self) -> IntVector:
        return np.array([len(indices) for indices in self.partition])

    @cached_property
    def module(self) -> FlatModule:
        """The model, bound to flat vectors."""
        from torch import nn

        from gcdl.problems.flat import FlatModule, uncompiled
        from gcdl.problems.layer_checks import refuse_unsuitable_layers

        model = self.given.model
        if not isinstance(model, nn.Module):
            with seeded(self.seed, Stream.MODEL):
                model = model()
            if not isinstance(model, nn.Module):
                raise ParameterError(f"model: the function returns a {type(model).__name__}, not a torch.nn.Module")
        refuse_unsuitable_layers(uncompiled(model))
        if any(tensor.device.type not in ("cpu", "meta") for tensor in chain(model.parameters(), model.buffers())):
            model.cpu()  # it has been on a GPU before
        return placed(FlatModule(model), self.place)

    @cached_property
    def place(self) -> torch.device:
        """Where this rank computes."""
        return choose(self.given.device)

    @cached_property
    def loss(self) -> Score:
        """The loss, where this rank computes."""
        from torch import nn

        given = self.given.loss
        return deepcopy(given).to(self.place) if isinstance(given, nn.Module) and self.place.type != "cpu" else given

    @cached_property
    def _start(self) -> Vector:
        return self.module.gather()

    @cached_property
    def minibatches(self) -> Minibatches:
        """Draws a step's samples."""
        return Minibatches(self.given.batch_size, self.given.sampling, self.seed)

    @cached_property
    def _processes(self) -> LoaderProcesses | None:
        return LoaderProcesses(self.given.num_workers, self.seed) if self.given.num_workers else None

    @cached_property
    def context(self) -> PassContext:
        """What a forward pass needs."""
        _ = self._start  # as the model is before anybody binds it
        return PassContext(self.module, self.loss, self.place, self.seed, self.given.chunk, self.given.autocast)

    @cached_property
    def metrics(self) -> Mapping[str, Score]:
        """The figures of the test set."""
        from torch import nn
        from torch.nn.functional import cross_entropy

        if self.given.metrics is not None:
            return self.given.metrics
        crossed = self.given.loss is cross_entropy or isinstance(self.given.loss, nn.CrossEntropyLoss)
        return {"accuracy": accuracy} if crossed else {}

    def layout(self) -> Layout:
        """Return the tensors that require a gradient, in ``named_parameters`` order."""
        _ = self._start  # as the model is before anybody binds it
        return self.module.layout

    def initial_parameters(self) -> Vector:
        """Return the model's parameters as they were given."""
        from gcdl.types import aligned_vector

        start = aligned_vector(self._start.size)
        start[:] = self._start
        return start

    def load(self, shards: IntVector) -> Samples:
        """Copy these shards' samples out of arrays; leave those of files and data sets where they are."""
        return {int(j): self.source.take(self.partition[int(j)]) for j in shards}

    def gradient(self, samples: Samples, shards: IntVector, weights: Weights) -> CodedGradient:
        """Return the coded gradient of these shards."""
        shares = np.array([samples[int(j)].size / self.source.size for j in shards])
        return self.local.gradient(partial(self._gradient, samples), shards, weights, shares, self.layout().size)

    def _gradient(self, samples: Samples, shards: IntVector, weights: Weights) -> TorchGradient:
        from gcdl.problems.layer_checks import draws_numbers

        held = [
            WeightedShard(int(j), float(weight) * samples[int(j)].size / self.source.size, samples[int(j)])
            for j, weight in zip(shards, weights, strict=True)
        ]
        if self._processes is not None:
            self._processes.hold({shard.number: shard.samples for shard in held})
        loader = BatchLoader(self.seed, self._processes)
        return TorchGradient(self.context, held, self.minibatches, loader, apart=draws_numbers(self.module.plain))

    def samples_used(self, step: int) -> IntVector:
        """Return how many samples a step uses of each shard, (k,)."""
        return self.local.samples_used(self.minibatches, self._sizes, step)

    def evaluator(self) -> TorchEvaluator:
        """Return the evaluator."""
        _ = self.partition
        return TorchEvaluator(self.context, self.source, self.test, self.metrics)

    def warnings(self) -> list[str]:
        """Return whether the loss is a sum over the samples."""
        few = self.partition[0][:4]
        with seeded(self.seed, Stream.LAYERS):
            batch = self.source.take(few).batch(slice(None))
        warning = sum_warning(self.context, self.initial_parameters(), batch, len(few))
        return [] if warning is None else [warning]

    def save(self, parameters: Vector, path: Path) -> None:
        """Write the model's state dict, and leave the model with these parameters."""
        self.module.save(parameters, path)

    def fingerprint(self) -> str:
        """Return a digest of the model as given, and of a few samples."""
        sources = [source for source in (self.source, self.test) if source is not None]
        return fingerprint(self.module.plain, self._start, sources, self.seed)

    def hand_over(self) -> str:
        """Return the module's state dict as text; nothing where a function makes it, under the seed."""
        from torch import nn

        return state_as_text(self.module.plain) if isinstance(self.given.model, nn.Module) else ""

    def restart(self) -> None:
        """Give the model the parameters that training starts from, in memory of its own."""
        self.module.bind(self.initial_parameters())

    def take_over(self, model: str) -> None:
        """Load a state dict that :meth:`hand_over` returned."""
        if model:
            load_state(self.module.plain, model)


def _size_of(data: Any) -> str:
    """Return how many samples there are, in words."""
    if data is None:
        return "none"
    first = data[0] if isinstance(data, tuple) and data else data
    try:
        return f"{len(first):,} samples"
    except TypeError:
        return type(data).__name__


def _check_function(name: str, function: Any) -> None:
    if isinstance(function, type):
        raise ParameterError(f"{name}: {function.__name__} is a class; take an instance, {function.__name__}()")
    if not callable(function):
        raise ParameterError(f"{name}: {function!r} cannot be called; take a function of (output, target)")

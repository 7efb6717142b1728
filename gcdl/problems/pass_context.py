"""What a forward pass needs to know: the model, the loss, and where and how they compute."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gcdl.errors import ParameterError
from gcdl.problems.device import AutocastName, autocast_block
from gcdl.problems.nested import cast
from gcdl.problems.samples import Batch
from gcdl.problems.seeding import seeded
from gcdl.problems.write_check import WriteCheck
from gcdl.types import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from gcdl.problems.flat import FlatModule

Score = Callable[[Any, Any], Any]
"""(output, target) -> a number: the mean over the samples."""


@dataclass(frozen=True, eq=False)
class PassContext:
    """A model and a loss, ready to compute.

    Attributes
    ----------
    module : the model, bound to flat vectors.
    loss : the loss, where this rank computes.
    device : where this rank computes.
    seed : the run's.
    chunk : samples in one forward and backward pass.
    autocast : the precision of ``torch.autocast``; None: the model's own.
    """

    module: FlatModule
    loss: Score
    device: torch.device
    seed: int
    chunk: int
    autocast: AutocastName | None = None

    @cached_property
    def writes(self) -> WriteCheck:
        """Finds passes that write parameters or buffers."""
        return WriteCheck(self.module.plain)

    def seeded(self, *key: int) -> AbstractContextManager[None]:
        """Seed the global generators by the run's seed and ``key``, in a block; those of this rank's GPU too."""
        return seeded(self.seed, Stream.LAYERS, *key, device=self.device)

    def prepared(self, batch: Batch) -> tuple[tuple[Any, ...], Any]:
        """Return a batch's inputs and target on this rank's device, floating-point tensors in the model's type."""
        *inputs, target = batch
        floating = self.module.floating
        return cast(tuple(inputs), floating, self.device), cast(target, floating, self.device, target=True)

    def call(self, inputs: tuple[Any, ...], target: Any) -> Any:
        """Return the model's output; a single dict's entries are given by name.

        Of a sample that is a dict as a whole, which has no inputs apart, the model is given the entries that it takes.

        Raises
        ------
        ParameterError : the pass wrote a parameter or a buffer; or a dict has no entry that the model takes.
        """
        model = self.module.module
        before = self.writes.versions()
        with autocast_block(self.device, self.autocast):
            if not inputs:
                output = model(**self._named(target))
            elif len(inputs) == 1 and isinstance(inputs[0], dict):
                output = model(**inputs[0])
            else:
                output = model(*inputs)
        self.writes.refuse_writes(before)
        return output

    def score_loss(self, output: Any, target: Any) -> Tensor:
        """Return the mean loss, a scalar."""
        with autocast_block(self.device, self.autocast):
            return score("loss", self.loss, output, target)

    def _named(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return those of a dict's entries that the model's ``forward`` has parameters for."""
        parameters = inspect.signature(self.module.plain.forward).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return sample
        names = [parameter.name for parameter in parameters]
        taken = {name: value for name, value in sample.items() if name in names}
        if not taken:
            raise ParameterError(
                f"data: a sample is a dict of {', '.join(sample)}; the model's forward takes {', '.join(names)}: "
                "name its parameters so, or make tuples (inputs, target) by collate_fn"
            )
        return taken


def score(name: str, function: Score, output: Any, target: Any) -> Tensor:
    """Return the loss, or a metric, as a scalar; the mean where the function returns one number a sample.

    Raises
    ------
    ParameterError : it returns neither; ``name`` says which function.
    """
    import torch

    value = function(output, target)
    if not isinstance(value, torch.Tensor):
        try:
            value = torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise ParameterError(f"{name}: returned a {type(value).__name__}; it must be the mean over the samples") from None
    if value.ndim == 1 and len(value):
        value = value.float().mean() if not value.is_floating_point() else value.mean()
    if value.ndim != 0:
        raise ParameterError(f"{name}: returned a tensor of shape {tuple(value.shape)}; it must be the mean over the samples")
    return value

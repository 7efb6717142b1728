"""What a forward pass needs to know: the model, the loss, and where and how they compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gcdl.errors import ParameterError
from gcdl.problems.nested import cast
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
    """

    module: FlatModule
    loss: Score
    device: torch.device
    seed: int
    chunk: int

    @cached_property
    def writes(self) -> WriteCheck:
        """Finds passes that write parameters or buffers."""
        return WriteCheck(self.module.module)

    def seeded(self, *key: int) -> AbstractContextManager[None]:
        """Seed the global generators by the run's seed and ``key``, in a block; those of this rank's GPU too."""
        return seeded(self.seed, Stream.LAYERS, *key, device=self.device)

    def inputs(self, inputs: Sequence[Any]) -> Any:
        """Return inputs on this rank's device, floating-point ones in the model's type."""
        return cast(inputs, self.module.floating, self.device)

    def target(self, target: Any) -> Any:
        """Return a target on this rank's device, floating-point ones in the model's type, integers as int64."""
        return cast(target, self.module.floating, self.device, target=True)

    def call(self, inputs: Sequence[Any]) -> Any:
        """Return the model's output. A dict's entries are given by name.

        Raises
        ------
        ParameterError : the pass wrote a parameter or a buffer.
        """
        model = self.module.module
        before = self.writes.versions()
        output = model(**inputs[0]) if len(inputs) == 1 and isinstance(inputs[0], dict) else model(*inputs)
        self.writes.refuse_writes(before)
        return output


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

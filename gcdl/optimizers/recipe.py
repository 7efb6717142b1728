"""What every optimizer in the table is: a recipe, from which each rank makes the same optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gcdl.optimizers.flat import Optimizer
from gcdl.types import Vector

if TYPE_CHECKING:
    import torch


class OptimizerRecipe(Protocol):
    """Makes an optimizer for a parameter vector. It holds numbers and functions only, so every rank can have it."""

    def build(self, parameters: Vector) -> Optimizer:
        """Return an optimizer that updates ``parameters``, (d,), in place."""
        ...

    def torch_optimizer(self, flat: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return the torch optimizer alone, for a list with one flat parameter."""
        ...

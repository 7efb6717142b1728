"""What every optimizer in the table is: a recipe, from which each rank makes the same optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from gcdl.optimizers.flat import Optimizer
from gcdl.types import Layout, Vector

if TYPE_CHECKING:
    import torch


class OptimizerRecipe(Protocol):
    """Makes an optimizer for a parameter vector. It holds numbers and functions only, so every rank can have it."""

    def build(self, parameters: Vector) -> Optimizer:
        """Return an optimizer that updates ``parameters``, (d,), in place."""
        ...

    def torch_optimizer(self, flat: list[Any]) -> torch.optim.Optimizer:
        """Return the torch optimizer alone, for a list with one flat parameter, or of parameter groups."""
        ...


@runtime_checkable
class NeedsLayout(Protocol):
    """A recipe that goes by the names of the parameters."""

    def for_layout(self, layout: Layout) -> OptimizerRecipe:
        """Return the recipe for a model of this layout, or for a slice of one."""
        ...


def for_layout(recipe: OptimizerRecipe, layout: Layout) -> OptimizerRecipe:
    """Return the recipe for a model of this layout: the same one, if it does not go by names."""
    return recipe.for_layout(layout) if isinstance(recipe, NeedsLayout) else recipe

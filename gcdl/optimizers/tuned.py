"""A recipe with a schedule of its learning rate, and with clipping: the config's ``schedule`` and ``clip_norm``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gcdl.optimizers.flat import Optimizer
from gcdl.optimizers.recipe import OptimizerRecipe, for_layout
from gcdl.optimizers.schedules import Schedule
from gcdl.types import Layout, Vector

if TYPE_CHECKING:
    import torch
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True)
class Tuned:
    """A recipe with a schedule of its learning rate, and with clipping."""

    recipe: OptimizerRecipe
    schedule: Schedule
    clip_norm: float

    @property
    def signs_alone(self) -> bool:
        """Whether steps depend on the gradient's signs alone. Scaled down, a small number may become zero."""
        return self.clip_norm == 0.0 and getattr(self.recipe, "signs_alone", False)

    def build(self, parameters: Vector) -> Optimizer:
        """Return the optimizer."""
        groups = getattr(self.recipe, "groups", None)
        return Optimizer(parameters, self.recipe.torch_optimizer, self._scheduler, self.clip_norm, groups)

    def for_layout(self, layout: Layout) -> Tuned:
        """Return the recipe for a model of this layout."""
        return replace(self, recipe=for_layout(self.recipe, layout))

    def torch_optimizer(self, flat: list[Any]) -> torch.optim.Optimizer:
        """Return the torch optimizer alone, without schedule and clipping."""
        return self.recipe.torch_optimizer(flat)

    def _scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        from torch.optim.lr_scheduler import LambdaLR

        return LambdaLR(optimizer, self.schedule)

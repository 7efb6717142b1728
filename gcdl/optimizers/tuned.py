"""A recipe with a schedule of its learning rate, and with clipping: the config's ``schedule`` and ``clip_norm``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gcdl.optimizers.flat import Optimizer
from gcdl.optimizers.recipe import OptimizerRecipe
from gcdl.optimizers.schedules import Schedule
from gcdl.types import Vector

if TYPE_CHECKING:
    import torch
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True)
class Tuned:
    """A recipe with a schedule of its learning rate, and with clipping."""

    recipe: OptimizerRecipe
    schedule: Schedule
    clip_norm: float

    def build(self, parameters: Vector) -> Optimizer:
        """Return the optimizer."""
        return Optimizer(parameters, self.recipe.torch_optimizer, self._scheduler, self.clip_norm)

    def torch_optimizer(self, flat: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return the torch optimizer alone, without schedule and clipping."""
        return self.recipe.torch_optimizer(flat)

    def _scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        from torch.optim.lr_scheduler import LambdaLR

        return LambdaLR(optimizer, self.schedule)

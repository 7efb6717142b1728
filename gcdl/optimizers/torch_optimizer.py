"""Any ``torch.optim`` optimizer of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gcdl.errors import ParameterError
from gcdl.optimizers.flat import Optimizer
from gcdl.optimizers.groups import Group, Grouping, groups_of
from gcdl.optimizers.recipe import OptimizerRecipe
from gcdl.types import Layout, Nonnegative, Vector

if TYPE_CHECKING:
    import torch

    from gcdl.optimizers.flat import MakeOptimizer, MakeScheduler


@dataclass(frozen=True)
class TorchOptimizer:
    """Any ``torch.optim`` optimizer that works coordinate by coordinate: it sees all parameters as one flat vector.

    Parameters
    ----------
    make : returns it for a list of parameters: ``lambda p: torch.optim.RMSprop(p, lr=1e-3)``.
    schedule : returns a ``torch.optim.lr_scheduler`` for it, stepped once a step; None: none.
    clip_norm : the largest Euclidean norm of a gradient; 0: any.
    groups : parameter groups, by a function of a parameter's name as in ``named_parameters``. It returns what is different
        for that parameter: ``lambda name: {"weight_decay": 0.0} if name.endswith("bias") else {}``. None: there is one group.

    >>> import numpy as np, torch
    >>> recipe = TorchOptimizer(lambda p: torch.optim.SGD(p, lr=0.5), lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.1))
    >>> optimizer = recipe.build(np.zeros(2, dtype=np.float32))
    >>> for _ in range(2):
    ...     optimizer.step(np.ones(2, dtype=np.float32))
    >>> optimizer.parameters.tolist()
    [-0.550000011920929, -0.550000011920929]
    """

    make: MakeOptimizer
    schedule: MakeScheduler | None = None
    clip_norm: Nonnegative = 0.0

    groups: Grouping | None = None

    def build(self, parameters: Vector) -> Optimizer:
        """Return the optimizer.

        Raises
        ------
        ParameterError : ``make`` or ``schedule`` return what can't be used here; or there are groups, see :meth:`for_layout`.
        """
        if self.groups is not None:
            raise ParameterError("groups: go by the names of the parameters; call for_layout first")
        return Optimizer(parameters, self.make, self.schedule, self.clip_norm)

    def for_layout(self, layout: Layout) -> OptimizerRecipe:
        """Return the recipe for a model of this layout.

        Raises
        ------
        ParameterError : ``groups`` returns no dict.
        """
        return self if self.groups is None else _Grouped(self, groups_of(layout, self.groups))

    def torch_optimizer(self, flat: list[Any]) -> torch.optim.Optimizer:
        """Return the torch optimizer alone.

        Raises
        ------
        ParameterError : this recipe has a schedule or clip_norm of its own.
        """
        if self.schedule is not None or self.clip_norm > 0.0:
            raise ParameterError("the schedule, or clip_norm, is given twice")
        return self.make(flat)


@dataclass(frozen=True)
class _Grouped:
    """A :class:`TorchOptimizer` whose groups are slices of a vector."""

    recipe: TorchOptimizer
    groups: tuple[Group, ...]

    def build(self, parameters: Vector) -> Optimizer:
        """Return the optimizer; for fewer parameters than the layout has, the groups' beginnings."""
        return Optimizer(parameters, self.recipe.make, self.recipe.schedule, self.recipe.clip_norm, self.groups)

    def torch_optimizer(self, flat: list[Any]) -> torch.optim.Optimizer:
        """Return the torch optimizer alone."""
        return self.recipe.torch_optimizer(flat)

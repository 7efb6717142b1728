"""Any ``torch.optim`` optimizer of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Any ``torch.optim`` optimizer. It sees all parameters as one flat vector, unless it is ``shaped``.

    Parameters
    ----------
    make : returns it for a list of parameters: ``lambda p: torch.optim.RMSprop(p, lr=1e-3)``.
    schedule : returns a ``torch.optim.lr_scheduler`` for it, stepped once a step; None: none.
    clip_norm : the largest Euclidean norm of a gradient; 0: any.
    groups : parameter groups, by a function of a parameter's name as in ``named_parameters``. It returns what is different
        for that parameter: ``lambda name: {"weight_decay": 0.0} if name.endswith("bias") else {}``. None: there is one group.
    shaped : ``make`` is given the parameters in their shapes, for optimizers that look at matrices (Muon, Adafactor). It may
        return several optimizers, each for some of the parameters. With one master, and ``downlink.kind = "model"``.

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
    shaped: bool = False

    def build(self, parameters: Vector) -> Optimizer:
        """Return the optimizer.

        Raises
        ------
        ParameterError : ``make`` or ``schedule`` return what can't be used here; or there are groups, see :meth:`for_layout`.
        """
        if self.groups is not None:
            raise ParameterError("groups: go by the names of the parameters; call for_layout first")
        if self.shaped:
            raise ParameterError("shaped: goes by the shapes of the parameters; call for_layout first")
        return Optimizer(parameters, self.make, self.schedule, self.clip_norm)

    def for_layout(self, layout: Layout) -> OptimizerRecipe:
        """Return the recipe for a model of this layout.

        Raises
        ------
        ParameterError : ``groups`` returns no dict; or it is given, and the optimizer is ``shaped``.
        """
        if self.shaped and self.groups is not None:
            raise ParameterError(
                "groups, shaped: take one of them; a shaped optimizer can be several, each for some parameters"
            )
        if self.shaped:
            return _Shaped(self, layout)
        return self if self.groups is None else _Grouped(self, groups_of(layout, self.groups))

    def torch_optimizer(self, flat: list[Any]) -> torch.optim.Optimizer:
        """Return the torch optimizer alone.

        Raises
        ------
        ParameterError : this recipe has a schedule or clip_norm of its own.
        """
        if self.schedule is not None or self.clip_norm > 0.0:
            raise ParameterError("the schedule, or clip_norm, is given twice")
        if self.shaped:
            raise ParameterError("shaped: needs the parameters in their shapes; here they are one flat vector")
        made = self.make(flat)
        if isinstance(made, Sequence):
            raise ParameterError("several optimizers: only where they are shaped")
        return made


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


@dataclass(frozen=True)
class _Shaped:
    """A :class:`TorchOptimizer` that is given a model's tensors in their shapes."""

    recipe: TorchOptimizer
    layout: Layout

    def build(self, parameters: Vector) -> Optimizer:
        """Return the optimizer.

        Raises
        ------
        ParameterError : these are not all of the model's parameters.
        """
        if parameters.size != self.layout.size:
            raise ParameterError(f"shaped: {parameters.size} of {self.layout.size} parameters have no shapes")
        recipe = self.recipe
        return Optimizer(parameters, recipe.make, recipe.schedule, recipe.clip_norm, layout=self.layout)

    def torch_optimizer(self, flat: list[Any]) -> torch.optim.Optimizer:
        """Return the torch optimizer alone; see :meth:`TorchOptimizer.torch_optimizer`."""
        return self.recipe.torch_optimizer(flat)

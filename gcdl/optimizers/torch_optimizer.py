"""Any ``torch.optim`` optimizer of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gcdl.errors import ParameterError
from gcdl.optimizers.flat import Optimizer
from gcdl.types import Nonnegative, Vector

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

    def build(self, parameters: Vector) -> Optimizer:
        """Return the optimizer.

        Raises
        ------
        ParameterError : ``make`` or ``schedule`` return what can't be used here.
        """
        return Optimizer(parameters, self.make, self.schedule, self.clip_norm)

    def torch_optimizer(self, flat: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return the torch optimizer alone.

        Raises
        ------
        ParameterError : this recipe has a schedule or clip_norm of its own.
        """
        if self.schedule is not None or self.clip_norm > 0.0:
            raise ParameterError("the schedule, or clip_norm, is given twice")
        return self.make(flat)

"""Torch optimizers on one flat parameter vector: a decoded gradient becomes new parameters.

Everything that happens to a decoded gradient happens here: clipping, weight decay, the schedule of the learning rate.
:meth:`Optimizer.state` returns what an optimizer needs to go on. The same recipe, state and gradients give the same
parameters to the bit on every rank.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from gcdl.errors import ParameterError
from gcdl.types import Vector, aligned_vector

if TYPE_CHECKING:
    import torch
    from torch.optim.lr_scheduler import LRScheduler

    MakeOptimizer = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
    MakeScheduler = Callable[[torch.optim.Optimizer], LRScheduler]

_SCHEDULED = "scheduled_steps"


class Optimizer:
    """A torch optimizer that steps a flat numpy vector in place.

    Parameters
    ----------
    parameters : (d,), updated in place.
    make : returns the torch optimizer for a list with one flat parameter.
    schedule : returns a scheduler for it, stepped after each step; it must not need the loss.
    clip_norm : a gradient of a larger Euclidean norm is scaled down to it; 0: never.

    Raises
    ------
    ParameterError : what ``make`` or ``schedule`` return can't be used here.
    """

    def __init__(
        self,
        parameters: Vector,
        make: MakeOptimizer,
        schedule: MakeScheduler | None = None,
        clip_norm: float = 0.0,
    ) -> None:
        import torch

        self.parameters = parameters
        self.clip_norm = clip_norm
        self._flat = torch.nn.Parameter(torch.from_numpy(parameters))
        self._make = make
        self._make_scheduler = schedule
        self._scaled = aligned_vector(parameters.size if clip_norm > 0.0 else 0)
        self._begin()

    def _begin(self) -> None:
        """Make the torch optimizer and its scheduler, as before the first step."""
        import torch

        self._torch = self._make([self._flat])
        if not isinstance(self._torch, torch.optim.Optimizer) or isinstance(self._torch, torch.optim.LBFGS):
            name = type(self._torch).__name__
            raise ParameterError(f"a {name} does not step on a gradient alone; take another torch.optim optimizer")
        if [id(one) for group in self._torch.param_groups for one in group["params"]] != [id(self._flat)]:
            raise ParameterError("the optimizer must be made for the parameters it is given, all of them in one group")
        self._scheduler = None if self._make_scheduler is None else self._make_scheduler(self._torch)
        if isinstance(self._scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ParameterError("ReduceLROnPlateau needs the loss; take a schedule that depends on the step alone")
        self._scheduled = 0

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self._torch.param_groups[0]["lr"])

    def step(self, gradient: Vector, norm: float | None = None) -> None:
        """Update ``parameters``, (d,), with the decoded gradient, (d,), which is left as it is.

        ``norm``: of the whole gradient, where this is a part of it; None: it is all, and its norm is found here.
        """
        import torch

        self._flat.grad = torch.from_numpy(self._clipped(gradient, norm))
        self._torch.step()
        if self._scheduler is not None:
            self._scheduler.step()
            self._scheduled += 1

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of the optimizer's own arrays (momentum, step counts) by name, and the number of scheduled steps."""
        state = {
            name: np.array(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
            for name, value in self._torch.state.get(self._flat, {}).items()
            if value is not None
        }
        return state if self._scheduler is None else {**state, _SCHEDULED: np.array(self._scheduled)}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from arrays that :meth:`state` returned. The caller sets the parameters.

        A scheduler is not restored. Its steps are repeated, so the rates are the same whatever it computes them from.
        """
        import torch

        self._begin()
        arrays = {name: torch.tensor(value) for name, value in state.items() if name != _SCHEDULED}
        if arrays:
            self._torch.state[self._flat] = arrays
        if self._scheduler is not None:
            self._scheduled = int(state.get(_SCHEDULED, 0))
            with warnings.catch_warnings():  # torch warns of a scheduler that runs ahead of its optimizer
                warnings.simplefilter("ignore")
                for _ in range(self._scheduled):
                    self._scheduler.step()

    def _clipped(self, gradient: Vector, norm: float | None) -> Vector:
        if self.clip_norm <= 0.0:
            return gradient
        if norm is None:
            with np.errstate(over="ignore", invalid="ignore"):
                norm = float(np.linalg.norm(gradient))
        if not math.isfinite(norm) or norm <= self.clip_norm:  # an overflow should be seen, not hidden
            return gradient
        return np.multiply(gradient, np.float32(self.clip_norm / norm), out=self._scaled)

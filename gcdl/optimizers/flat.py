"""Torch optimizers on one flat parameter vector: a decoded gradient becomes new parameters.

Everything that happens to a decoded gradient happens here: clipping, weight decay, the schedule of the learning rate.
:meth:`Optimizer.state` returns what an optimizer needs to go on. The same recipe, state and gradients give the same
parameters to the bit on every rank.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gcdl.errors import ParameterError
from gcdl.optimizers.groups import Group
from gcdl.types import Vector, aligned_vector

if TYPE_CHECKING:
    import torch
    from torch.optim.lr_scheduler import LRScheduler

    MakeOptimizer = Callable[[list[Any]], torch.optim.Optimizer]
    MakeScheduler = Callable[[torch.optim.Optimizer], LRScheduler]

_SCHEDULED = "scheduled_steps"


class Optimizer:
    """A torch optimizer that steps a flat numpy vector in place.

    Parameters
    ----------
    parameters : (d,), updated in place.
    make : returns the torch optimizer for a list with one flat parameter, or of parameter groups.
    schedule : returns a scheduler for it, stepped after each step; it must not need the loss.
    clip_norm : a gradient of a larger Euclidean norm is scaled down to it; 0: never.
    groups : parameter groups; None: all parameters are one.

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
        groups: Sequence[Group] | None = None,
    ) -> None:
        import torch

        self.parameters = parameters
        self.clip_norm = clip_norm
        self._groups = (Group((slice(0, parameters.size),), {}),) if groups is None else groups
        self._grouped = groups is not None
        self._pieces = [
            (where, torch.nn.Parameter(torch.from_numpy(parameters[where]))) for group in self._groups for where in group.slices
        ]
        self._make = make
        self._make_scheduler = schedule
        self._scaled = aligned_vector(parameters.size if clip_norm > 0.0 else 0)
        self._begin()

    def _begin(self) -> None:
        """Make the torch optimizer and its scheduler, as before the first step."""
        import torch

        self._torch = self._make(self._given())
        if not isinstance(self._torch, torch.optim.Optimizer) or isinstance(self._torch, torch.optim.LBFGS):
            name = type(self._torch).__name__
            raise ParameterError(f"a {name} does not step on a gradient alone; take another torch.optim optimizer")
        made_for = [id(one) for group in self._torch.param_groups for one in group["params"]]
        if made_for != [id(piece) for _, piece in self._pieces]:
            raise ParameterError(
                "the optimizer must be made for the parameters it is given, as they are; TorchOptimizer(groups=...) groups them"
            )
        self._scheduler = None if self._make_scheduler is None else self._make_scheduler(self._torch)
        if isinstance(self._scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ParameterError("ReduceLROnPlateau needs the loss; take a schedule that depends on the step alone")
        self._scheduled = 0

    def _given(self) -> list[Any]:
        """Return what the torch optimizer is made of: the flat parameter, or parameter groups."""
        if not self._grouped:
            return [piece for _, piece in self._pieces]
        pieces = iter(self._pieces)
        return [{"params": [next(pieces)[1] for _ in group.slices], **group.options} for group in self._groups]

    @property
    def lr(self) -> float:
        """The learning rate of the next step: of the first group, where there are several."""
        return float(self._torch.param_groups[0]["lr"])

    def step(self, gradient: Vector, norm: float | None = None) -> None:
        """Update ``parameters``, (d,), with the decoded gradient, (d,), which is left as it is.

        ``norm``: of the whole gradient, where this is a part of it; None: it is all, and its norm is found here.
        """
        import torch

        clipped = self._clipped(gradient, norm)
        for where, piece in self._pieces:
            piece.grad = torch.from_numpy(clipped[where])
        self._torch.step()
        if self._scheduler is not None:
            self._scheduler.step()
            self._scheduled += 1

    def state(self, *, copied: bool = True) -> dict[str, np.ndarray]:
        """Return the optimizer's own arrays (momentum, step counts) by name, and the number of scheduled steps.

        Arrays by coordinate are (d,), whatever the groups. If they are not ``copied``, the next step may change
        them.

        Raises
        ------
        ParameterError : a number of the optimizer's differs between groups.
        """
        state: dict[str, np.ndarray] = {}
        for where, piece in self._pieces:
            for name, value in self._torch.state.get(piece, {}).items():
                if value is None:
                    continue
                array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
                if array.shape == self.parameters.shape:
                    state[name] = array.copy() if copied else array
                elif array.shape == tuple(piece.shape):
                    state.setdefault(name, np.zeros(self.parameters.size, dtype=array.dtype))[where] = array
                elif not np.array_equal(state.setdefault(name, array.copy()), array):
                    raise ParameterError(f"groups: the optimizer's {name!r} differs between groups; give all the same betas")
        return state if self._scheduler is None else {**state, _SCHEDULED: np.array(self._scheduled)}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from arrays that :meth:`state` returned. The caller sets the parameters.

        A scheduler is not restored. Its steps are repeated, so the rates are the same whatever it computes them from.
        """
        import torch

        self._begin()
        arrays = {name: value for name, value in state.items() if name != _SCHEDULED}
        if arrays:
            whole = self.parameters.shape
            for where, piece in self._pieces:
                self._torch.state[piece] = {
                    name: torch.tensor(value[where] if value.shape == whole else value) for name, value in arrays.items()
                }
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

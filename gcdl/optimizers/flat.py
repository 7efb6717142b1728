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
from gcdl.types import Layout, Vector, aligned_vector

if TYPE_CHECKING:
    import torch
    from torch.optim.lr_scheduler import LRScheduler

    MakeOptimizer = Callable[[list[Any]], torch.optim.Optimizer | Sequence[torch.optim.Optimizer]]
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
    layout : of the parameters: ``make`` is then given each tensor in its shape, and may return several optimizers, each for
        some of them; None: it is given flat ones.

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
        layout: Layout | None = None,
    ) -> None:
        import torch

        self.parameters = parameters
        self.clip_norm = clip_norm
        self._groups = (Group((slice(0, parameters.size),), {}),) if groups is None else groups
        self._grouped = groups is not None
        self._shaped = layout is not None
        slices = [where for group in self._groups for where in group.slices] if layout is None else layout.slices
        shapes: Sequence[tuple[int, ...]] = [(-1,)] * len(slices) if layout is None else layout.shapes
        self._pieces = [
            (where, torch.nn.Parameter(torch.from_numpy(parameters[where]).view(shape)))
            for where, shape in zip(slices, shapes, strict=True)
        ]
        self._make = make
        self._make_scheduler = schedule
        self._scaled = aligned_vector(parameters.size if clip_norm > 0.0 else 0)
        self._begin()

    def _begin(self) -> None:
        """Make the torch optimizer and its scheduler, as before the first step; several, where ``make`` returns several."""
        import torch

        made = self._make(self._given())
        self._torch: list[Any] = list(made) if self._shaped and isinstance(made, Sequence) else [made]
        for one in self._torch:
            if not isinstance(one, torch.optim.Optimizer) or isinstance(one, torch.optim.LBFGS):
                name = type(one).__name__
                raise ParameterError(f"a {name} does not step on a gradient alone; take another torch.optim optimizer")
        made_for = [id(parameter) for one in self._torch for group in one.param_groups for parameter in group["params"]]
        given = [id(piece) for _, piece in self._pieces]
        if (sorted(made_for) != sorted(given)) if self._shaped else (made_for != given):
            raise ParameterError(
                "the optimizer must be made for the parameters it is given, as they are"
                + (", and each of them once" if self._shaped else "; TorchOptimizer(groups=...) groups them")
            )
        self._schedulers = [] if self._make_scheduler is None else [self._make_scheduler(one) for one in self._torch]
        if any(isinstance(one, torch.optim.lr_scheduler.ReduceLROnPlateau) for one in self._schedulers):
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
        return float(self._torch[0].param_groups[0]["lr"])

    def step(self, gradient: Vector, norm: float | None = None) -> None:
        """Update ``parameters``, (d,), with the decoded gradient, (d,), which is left as it is.

        ``norm``: of the whole gradient, where this is a part of it; None: it is all, and its norm is found here.
        """
        import torch

        clipped = self._clipped(gradient, norm)
        for where, piece in self._pieces:
            piece.grad = torch.from_numpy(clipped[where]).view(piece.shape)
        for one in self._torch:
            one.step()
        for scheduler in self._schedulers:
            scheduler.step()
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
        for number, (where, piece) in enumerate(self._pieces):
            for name, value in self._state_of(piece).items():
                if value is None:
                    continue
                array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
                if self._shaped:
                    state[f"{number}.{name}"] = array.copy() if copied else array
                elif array.shape == self.parameters.shape:
                    state[name] = array.copy() if copied else array
                elif array.shape == tuple(piece.shape):
                    state.setdefault(name, np.zeros(self.parameters.size, dtype=array.dtype))[where] = array
                elif not np.array_equal(state.setdefault(name, array.copy()), array):
                    raise ParameterError(f"groups: the optimizer's {name!r} differs between groups; give all the same betas")
        return state if not self._schedulers else {**state, _SCHEDULED: np.array(self._scheduled)}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from arrays that :meth:`state` returned. The caller sets the parameters.

        A scheduler is not restored. Its steps are repeated, so the rates are the same whatever it computes them from.
        """
        import torch

        self._begin()
        arrays = {name: value for name, value in state.items() if name != _SCHEDULED}
        if arrays and self._shaped:
            for number, (_, piece) in enumerate(self._pieces):
                start = f"{number}."
                mine = {name.removeprefix(start): value for name, value in arrays.items() if name.startswith(start)}
                self._state_of(piece).update((name, torch.tensor(value)) for name, value in mine.items())
        elif arrays:
            whole = self.parameters.shape
            for where, piece in self._pieces:
                self._torch[0].state[piece] = {
                    name: torch.tensor(value[where] if value.shape == whole else value) for name, value in arrays.items()
                }
        if self._schedulers:
            self._scheduled = int(state.get(_SCHEDULED, 0))
            with warnings.catch_warnings():  # torch warns of a scheduler that runs ahead of its optimizer
                warnings.simplefilter("ignore")
                for scheduler in self._schedulers:
                    for _ in range(self._scheduled):
                        scheduler.step()

    def _state_of(self, piece: Any) -> dict[str, Any]:
        """Return what the torch optimizer of a piece keeps of it."""
        owner = next(
            one for one in self._torch for group in one.param_groups if any(piece is other for other in group["params"])
        )
        kept: dict[str, Any] = owner.state[piece] if self._shaped else owner.state.get(piece, {})
        return kept

    def _clipped(self, gradient: Vector, norm: float | None) -> Vector:
        if self.clip_norm <= 0.0:
            return gradient
        if norm is None:
            with np.errstate(over="ignore", invalid="ignore"):
                norm = float(np.linalg.norm(gradient))
        if not math.isfinite(norm) or norm <= self.clip_norm:  # an overflow should be seen, not hidden
            return gradient
        return np.multiply(gradient, np.float32(self.clip_norm / norm), out=self._scaled)

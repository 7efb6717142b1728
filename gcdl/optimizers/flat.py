"""From a decoded gradient to new parameters: ``torch.optim`` on one flat parameter vector.

Everything that happens to a decoded gradient happens here: clipping, weight decay, the schedule of the learning rate. What it
needs to go on is in :meth:`Optimizer.state`, and the same recipe, state and gradients give the same parameters to the bit, on
whichever rank.

A new optimizer is a recipe with a ``build`` method and a line in :data:`OPTIMIZERS`; the recipe's parameters are the keys
of the config's ``[optimizer]`` table.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gcdl.errors import ParameterError
from gcdl.optimizers.schedules import Schedule
from gcdl.types import Fraction, Nonnegative, Positive, Vector, aligned_vector

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
        """Make the torch optimizer, and its scheduler, as they are before the first step."""
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

    def step(self, gradient: Vector) -> None:
        """Update ``parameters``, (d,), with the decoded gradient, (d,), which is left as it is."""
        import torch

        self._flat.grad = torch.from_numpy(self._clipped(gradient))
        self._torch.step()
        if self._scheduler is not None:
            self._scheduler.step()
            self._scheduled += 1

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of the optimizer's own arrays (momentum, step counts), by name, and how far its schedule is."""
        state = {
            name: np.array(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
            for name, value in self._torch.state.get(self._flat, {}).items()
            if value is not None
        }
        return state if self._scheduler is None else {**state, _SCHEDULED: np.array(self._scheduled)}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Begin with arrays that :meth:`state` returned; the parameters are set beside.

        A scheduler is not restored but repeated, step by step: whatever it computes from what, the rates are the same.
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

    def _clipped(self, gradient: Vector) -> Vector:
        if self.clip_norm <= 0.0:
            return gradient
        with np.errstate(over="ignore", invalid="ignore"):
            norm = float(np.linalg.norm(gradient))
        if not math.isfinite(norm) or norm <= self.clip_norm:  # an overflow should be seen, not hidden
            return gradient
        return np.multiply(gradient, np.float32(self.clip_norm / norm), out=self._scaled)


class OptimizerRecipe(Protocol):
    """Makes an optimizer for a parameter vector. Every rank can: it is data."""

    def build(self, parameters: Vector) -> Optimizer:
        """Return an optimizer that updates ``parameters``, (d,), in place."""
        ...

    def torch_optimizer(self, flat: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return the torch optimizer in it, for a list with one flat parameter."""
        ...


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent: v <- momentum v + g, w <- w - lr v (``torch.optim.SGD``)."""

    lr: Positive = 0.1
    momentum: Fraction = 0.0
    weight_decay: Nonnegative = 0.0

    def torch_optimizer(self, flat: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return it."""
        import torch

        return torch.optim.SGD(flat, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def build(self, parameters: Vector) -> Optimizer:
        """Return the optimizer."""
        return Optimizer(parameters, self.torch_optimizer)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, ICLR 2015; ``torch.optim.Adam``, fused). ``weight_decay`` is added to the gradient."""

    lr: Positive = 1e-3
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: Positive = 1e-8
    weight_decay: Nonnegative = 0.0

    def torch_optimizer(self, flat: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return it."""
        import torch

        return torch.optim.Adam(
            flat, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, weight_decay=self.weight_decay, fused=True
        )

    def build(self, parameters: Vector) -> Optimizer:
        """Return the optimizer."""
        return Optimizer(parameters, self.torch_optimizer)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019; ``torch.optim.AdamW``, fused)."""

    lr: Positive = 1e-3
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: Positive = 1e-8
    weight_decay: Nonnegative = 0.01

    def torch_optimizer(self, flat: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return it."""
        import torch

        return torch.optim.AdamW(
            flat, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, weight_decay=self.weight_decay, fused=True
        )

    def build(self, parameters: Vector) -> Optimizer:
        """Return the optimizer."""
        return Optimizer(parameters, self.torch_optimizer)


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
        """Return it, without a schedule.

        Raises
        ------
        ParameterError : it has one of its own.
        """
        if self.schedule is not None or self.clip_norm > 0.0:
            raise ParameterError("the schedule, or clip_norm, is given twice")
        return self.make(flat)


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
        """Return it, without the schedule."""
        return self.recipe.torch_optimizer(flat)

    def _scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        from torch.optim.lr_scheduler import LambdaLR

        return LambdaLR(optimizer, self.schedule)


OPTIMIZERS: dict[str, Callable[..., OptimizerRecipe]] = {"sgd": Sgd, "adam": Adam, "adamw": AdamW}

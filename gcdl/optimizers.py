"""From a decoded gradient to new parameters: ``torch.optim`` on one flat parameter vector.

A new optimizer is a recipe with a ``build`` method and a line in :data:`OPTIMIZERS`; the recipe's parameters are the keys
of the config's ``[optimizer]`` table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gcdl.types import Fraction, Nonnegative, Positive, Vector

if TYPE_CHECKING:
    import torch


class Optimizer:
    """A torch optimizer that steps a flat numpy vector in place."""

    def __init__(self, parameters: Vector, make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]) -> None:
        import torch

        self.parameters = parameters
        self._flat = torch.nn.Parameter(torch.from_numpy(parameters))
        self._torch = make([self._flat])

    def step(self, gradient: Vector) -> None:
        """Update ``parameters``, (d,), with the decoded gradient, (d,)."""
        import torch

        self._flat.grad = torch.from_numpy(gradient)
        self._torch.step()

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of the optimizer's own arrays (momentum, step counts), by name."""
        return {
            name: np.array(value.detach().cpu().numpy())
            for name, value in self._torch.state.get(self._flat, {}).items()
            if value is not None
        }

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Begin with arrays that :meth:`state` returned; the parameters are set beside."""
        import torch

        if state:
            self._torch.state[self._flat] = {name: torch.tensor(value) for name, value in state.items()}


class OptimizerRecipe(Protocol):
    """Makes an optimizer for a parameter vector."""

    def build(self, parameters: Vector) -> Optimizer:
        """Return an optimizer that updates ``parameters``, (d,), in place."""
        ...


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent: v <- momentum v + g, w <- w - lr v (``torch.optim.SGD``)."""

    lr: Positive = 0.1
    momentum: Fraction = 0.0
    weight_decay: Nonnegative = 0.0

    def build(self, parameters: Vector) -> Optimizer:
        """Return the optimizer."""
        import torch

        return Optimizer(
            parameters,
            lambda flat: torch.optim.SGD(flat, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay),
        )


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, ICLR 2015; ``torch.optim.Adam``, fused)."""

    lr: Positive = 1e-3
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: Positive = 1e-8
    weight_decay: Nonnegative = 0.0

    def build(self, parameters: Vector) -> Optimizer:
        """Return the optimizer."""
        import torch

        return Optimizer(
            parameters,
            lambda flat: torch.optim.Adam(
                flat, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps,
                weight_decay=self.weight_decay, fused=True,
            ),
        )  # fmt: skip


OPTIMIZERS: dict[str, Callable[..., OptimizerRecipe]] = {"sgd": Sgd, "adam": Adam}

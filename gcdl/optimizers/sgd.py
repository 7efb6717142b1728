"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gcdl.errors import ParameterError
from gcdl.optimizers.flat import Optimizer
from gcdl.types import Fraction, Nonnegative, Positive, Vector

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent: v <- momentum v + g, w <- w - lr v (``torch.optim.SGD``).

    ``nesterov``: w <- w - lr (g + momentum v) (Sutskever, Martens, Dahl and Hinton, ICML 2013).
    """

    lr: Positive = 0.1
    momentum: Fraction = 0.0
    weight_decay: Nonnegative = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0.0:
            raise ParameterError("nesterov: needs momentum above 0")

    def torch_optimizer(self, flat: list[Any]) -> torch.optim.Optimizer:
        """Return the torch optimizer."""
        import torch

        return torch.optim.SGD(flat, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov)

    def build(self, parameters: Vector) -> Optimizer:
        """Return the optimizer."""
        return Optimizer(parameters, self.torch_optimizer)

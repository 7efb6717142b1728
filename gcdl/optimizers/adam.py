"""Adam, and Adam with decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gcdl.optimizers.flat import Optimizer
from gcdl.types import Fraction, Nonnegative, Positive, Vector

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, ICLR 2015; ``torch.optim.Adam``, fused). ``weight_decay`` is added to the gradient."""

    lr: Positive = 1e-3
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: Positive = 1e-8
    weight_decay: Nonnegative = 0.0

    def torch_optimizer(self, flat: list[Any]) -> torch.optim.Optimizer:
        """Return the torch optimizer."""
        import torch

        return torch.optim.Adam(flat, **self._arguments())

    def build(self, parameters: Vector) -> Optimizer:
        """Return the optimizer."""
        return Optimizer(parameters, self.torch_optimizer)

    def _arguments(self) -> dict[str, Any]:
        moments = {"lr": self.lr, "betas": (self.beta1, self.beta2), "eps": self.eps}
        return {**moments, "weight_decay": self.weight_decay, "fused": True}


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019; ``torch.optim.AdamW``, fused)."""

    weight_decay: Nonnegative = 0.01

    def torch_optimizer(self, flat: list[Any]) -> torch.optim.Optimizer:
        """Return the torch optimizer."""
        import torch

        return torch.optim.AdamW(flat, **self._arguments())

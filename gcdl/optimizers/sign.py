"""Sign steps: each coordinate moves by the learning rate, whatever the size of its gradient, with decoupled weight decay.

    w <- (1 - lr weight_decay) w - lr sign(g)

Source: signSGD (Bernstein et al., ICML 2018). With worker momentum (:mod:`gcdl.compressors.momentum`) and one-bit replies it is
the master's part of Distributed Lion (Liu et al., arXiv 2404.00438): the sign of the sum of votes is their majority.

A coordinate whose votes are a tie has g = 0. It moves up in one step and down in the next: sign(0) is +1 in steps 0, 2, 4, ...
and -1 in the others. So a coordinate that is always tied stays where it is to within lr, and the update is one bit in every
step. That makes the downlinks ``votes`` and ``replies`` one bit a coordinate, and lossless (:mod:`gcdl.downlinks.signs`). The
papers leave a tied coordinate where it is, which takes a third value.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from gcdl.optimizers.flat import Optimizer
from gcdl.types import Nonnegative, Positive, Vector

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SignSteps:
    """Steps of one size."""

    lr: Positive = 1e-3
    weight_decay: Nonnegative = 0.0

    signs_alone: ClassVar[bool] = True
    """The step depends on the gradient's signs alone."""

    def torch_optimizer(self, flat: list[Any]) -> torch.optim.Optimizer:
        """Return the torch optimizer."""
        optimizer: torch.optim.Optimizer = _torch_class()(flat, {"lr": self.lr, "weight_decay": self.weight_decay})
        return optimizer

    def build(self, parameters: Vector) -> Optimizer:
        """Return the optimizer."""
        return Optimizer(parameters, self.torch_optimizer)


def ties_go_up(step: int) -> bool:
    """Say whether sign(0) is +1 in this step, the first being 0."""
    return step % 2 == 0


@cache
def _torch_class() -> Any:
    """Return the class of the torch optimizer. It is made here because a config is checked without torch."""
    import torch

    class TorchSignSteps(torch.optim.Optimizer):
        """See the module; ``state`` holds the number of steps done."""

        def __init__(self, flat: list[Any], defaults: dict[str, float]) -> None:
            super().__init__(flat, defaults)
            self._signs = [[torch.empty_like(parameter) for parameter in group["params"]] for group in self.param_groups]

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            """Update the parameters."""
            for group, buffers in zip(self.param_groups, self._signs, strict=True):
                for parameter, signs in zip(group["params"], buffers, strict=True):
                    state = self.state[parameter]
                    done = int(state.get("step", 0))
                    state["step"] = torch.tensor(float(done + 1))
                    up = torch.ge if ties_go_up(done) else torch.gt
                    up(parameter.grad, 0.0, out=signs)
                    signs.mul_(2.0).sub_(1.0)
                    parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                    parameter.add_(signs, alpha=-group["lr"])

    return TorchSignSteps

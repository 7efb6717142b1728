"""Local steps: what a worker sends is not a gradient, but how far H steps of its own have led from the master's model.

For shard j a worker begins at the master's model, u_0 = w, and takes H steps of a local optimizer, u_{h+1} = step(u_h,
grad f_j(u_h)), each on a minibatch of its own. The gradient's place is taken by D_j = (N_j / N) (w - u_H), and C_i = sum_j B_ij
D_j. So codes, compressors and downlinks stay as they are, and the sum over all shards is the weighted mean of the differences.

The master's optimizer is the outer one. sgd with lr = 1 goes to the mean of the local models: federated averaging (McMahan et
al., AISTATS 2017). sgd with nesterov momentum is the outer optimizer of DiLoCo (Douillard et al., arXiv 2311.08105).

*Replicas must agree.* The local optimizer starts afresh in each round and for each shard. Local step h of step t uses the
minibatch, and the random numbers, that step t H + h of a run without local steps would use.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gcdl.errors import ParameterError
from gcdl.problems.base import CodedGradient
from gcdl.problems.minibatches import Minibatches
from gcdl.types import IntVector, Vector, Weights, aligned_vector

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MakeLocal = Callable[[list[Any]], Any]
"""Makes the local optimizer, of ``torch.optim``, for a list with one flat parameter."""
_LR = 0.1


@dataclass(frozen=True)
class LocalSteps:
    """How many steps a worker takes on its own, and with which optimizer; with one step it sends the gradient.

    Parameters
    ----------
    steps : H, in each step of the run and for each shard.
    optimizer : makes the local optimizer; None: SGD with a learning rate of 0.1. With one step it is not used.
    """

    steps: int = 1
    optimizer: MakeLocal | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ParameterError(f"local_steps: {self.steps}; at least 1")
        if self.optimizer is not None and not callable(self.optimizer):
            raise ParameterError(
                f"local_optimizer: a {type(self.optimizer).__name__}; take a table, or a function of a list of parameters"
            )

    def gradient(
        self,
        gradient_of: Callable[[IntVector, Weights], CodedGradient],
        shards: IntVector,
        weights: Weights,
        shares: Weights,
        d: int,
    ) -> CodedGradient:
        """Return what a worker computes for its shards.

        Parameters
        ----------
        gradient_of : (shards, weights) -> their coded gradient.
        shards, weights : the worker's, (shards,).
        shares : (shards,), N_j / N.
        d : the number of parameters.
        """
        if self.steps == 1:
            return gradient_of(shards, weights)
        # A weight of N / N_j makes the coded gradient of a single shard the gradient of its mean loss.
        alone = [gradient_of(np.array([j]), np.array([1.0 / share])) for j, share in zip(shards, shares, strict=True)]
        return LocalDifference(alone, (weights * shares).tolist(), self.steps, self.optimizer or _plain_sgd, d)

    def samples_used(self, minibatches: Minibatches, sizes: IntVector, step: int) -> IntVector:
        """Return how many samples a step uses of shards of these ``sizes``, (k,), all local steps together."""
        counts = [minibatches.counts(sizes, step * self.steps + local_step) for local_step in range(self.steps)]
        return np.asarray(np.sum(counts, axis=0))


class LocalDifference:
    """The weighted sum of some shards' differences: see :class:`gcdl.problems.CodedGradient`.

    Parameters
    ----------
    gradients : of the mean loss of each shard.
    weights : B_ij N_j / N of each shard.
    steps : H.
    optimizer : makes the local optimizer.
    d : the number of parameters.
    """

    def __init__(
        self, gradients: Sequence[CodedGradient], weights: Sequence[float], steps: int, optimizer: MakeLocal, d: int
    ) -> None:
        import torch

        self.gradients = gradients
        self.weights = weights
        self.steps = steps
        self.device = getattr(gradients[0], "device", torch.device("cpu")) if gradients else torch.device("cpu")
        self._model, self._gradient = (self._vector(d) for _ in range(2))
        """u_h and the gradient there, (d,): arrays, or tensors on a GPU."""
        self._parameter = torch.nn.Parameter(_tensor(self._model))
        self._optimizer = optimizer([self._parameter])

    def compute(self, parameters: Vector, step: int, out: Vector) -> Generator[float, None, float]:
        """Compute it from the model ``parameters``, (d,), into ``out``, (d,). The loss returned is that of ``parameters``."""
        start, into = _tensor(parameters).to(self.device), _tensor(out)
        coded_loss = 0.0
        for number, (gradient, weight) in enumerate(zip(self.gradients, self.weights, strict=True)):
            self._parameter.data.copy_(start)
            self._optimizer.state.clear()
            for local_step in range(self.steps):
                loss = yield from gradient.compute(self._model, step * self.steps + local_step, self._gradient)
                if local_step == 0:
                    coded_loss += weight * loss
                self._parameter.grad = _tensor(self._gradient)
                self._optimizer.step()
            difference = _tensor(self._gradient)
            difference.copy_(start).sub_(self._parameter.data).mul_(weight)
            there = difference.to(into.device)  # a compressor of the user's own may want it on the host
            into.add_(there) if number else into.copy_(there)
        return coded_loss

    def _vector(self, d: int) -> Any:
        import torch

        return aligned_vector(d) if self.device.type == "cpu" else torch.zeros(d, device=self.device)


def _tensor(vector: Any) -> Tensor:
    """Return a tensor that shares the memory of a (d,) array; a tensor as it is."""
    from gcdl.problems.flat import tensor_of

    return tensor_of(vector) if isinstance(vector, np.ndarray) else vector


def _plain_sgd(parameters: list[Any]) -> torch.optim.Optimizer:
    import torch

    return torch.optim.SGD(parameters, lr=_LR)

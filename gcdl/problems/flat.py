"""A ``torch.nn.Module`` whose parameters are views of one flat vector, and whose gradient lands in another."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from gcdl.types import Layout, Vector, aligned_vector


class FlatModule:
    """Binds a module to flat parameter vectors; binding is a matter of pointers, nothing is copied."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.parameters = list(module.parameters())
        self.layout = Layout(
            tuple(name for name, _ in module.named_parameters()),
            tuple(tuple(parameter.shape) for parameter in self.parameters),
        )

    def gather(self) -> Vector:
        """Return a copy of the parameters as one (d,) vector."""
        flat = aligned_vector(self.layout.size)
        for where, parameter in zip(self.layout.slices, self.parameters, strict=True):
            flat[where] = parameter.detach().numpy().ravel()
        return flat

    def bind(self, parameters: Vector) -> None:
        """Make the module's parameters views of ``parameters``, (d,)."""
        flat = torch.from_numpy(parameters)
        for where, shape, parameter in zip(self.layout.slices, self.layout.shapes, self.parameters, strict=True):
            parameter.data = flat[where].view(shape)

    def backward(self, loss: Tensor, out: Vector, *, add: bool) -> None:
        """Write (or add) the gradient of a scalar loss into ``out``, (d,)."""
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        for where, gradient in zip(self.layout.slices, gradients, strict=True):
            part = out[where].reshape(gradient.shape)
            if add:
                part += gradient.numpy()
            else:
                np.copyto(part, gradient.numpy())

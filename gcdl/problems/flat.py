"""A ``torch.nn.Module`` whose parameters are views of one flat vector, and whose gradient lands in another.

The vector is what travels and what the optimizer steps. It holds the parameters that require a gradient, as float32; tied
weights are there once. A parameter of another type (bfloat16, float16, float64) keeps its type, and is a rounded copy.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gcdl.errors import ParameterError
from gcdl.types import Layout, Vector, aligned_vector

_SUPPORTED = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class FlatModule:
    """Binds a module to flat parameter vectors. Binding sets pointers: only parameters that are not float32 are copied.

    Attributes
    ----------
    module : what is called; it may be compiled.
    plain : the module itself, whose names its parameters have in files and messages.
    parameters, layout : what is trained.

    Raises
    ------
    ParameterError : a parameter is of no supported type, not on the CPU, not initialised, or none requires a gradient.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.plain = uncompiled(module)
        named = [(name, parameter) for name, parameter in self.plain.named_parameters() if parameter.requires_grad]
        for name, parameter in named:
            _check(name, parameter)
        if not named:
            raise ParameterError("no parameter of the model requires a gradient: there is nothing to train")
        self.parameters = [parameter for _, parameter in named]
        self.layout = Layout(
            tuple(name for name, _ in named),
            tuple(tuple(parameter.shape) for parameter in self.parameters),
        )

    @property
    def floating(self) -> torch.dtype:
        """The type that the model computes in."""
        return self.parameters[0].dtype

    def gather(self) -> Vector:
        """Return a copy of the parameters as one (d,) vector."""
        flat = aligned_vector(self.layout.size)
        for where, parameter in zip(self.layout.slices, self.parameters, strict=True):
            flat[where] = parameter.detach().float().cpu().numpy().ravel()
        return flat

    def bind(self, parameters: Vector) -> None:
        """Make the module's parameters views of ``parameters``, (d,)."""
        self._views(tensor_of(parameters))

    def _views(self, flat: Tensor) -> None:
        """Make the float32 parameters views of ``flat``, (d,), and the others rounded copies."""
        for where, shape, parameter in zip(self.layout.slices, self.layout.shapes, self.parameters, strict=True):
            if parameter.dtype == torch.float32:
                parameter.data = flat[where].view(shape)
            else:
                parameter.data.copy_(flat[where].view(shape))

    def backward(self, loss: Tensor, out: Vector, *, add: bool) -> None:
        """Write (or add) the gradient of a scalar loss into ``out``, (d,)."""
        for where, gradient in zip(self.layout.slices, self._gradients(loss), strict=True):
            part = out[where].reshape(gradient.shape)
            if add:
                part += gradient.numpy()
            else:
                np.copyto(part, gradient.numpy())

    def _gradients(self, loss: Tensor) -> Iterator[Tensor]:
        """Yield the gradient of each parameter: dense, float32."""
        for gradient in torch.autograd.grad(loss, self.parameters, materialize_grads=True):
            yield (gradient.to_dense() if gradient.is_sparse else gradient).float()

    def save(self, parameters: Vector, path: Path) -> None:
        """Write the module's state dict with these parameters, (d,); the module keeps them.

        Raises
        ------
        OSError : it can't be written.
        """
        self.bind(parameters.copy())
        state = {name: value.detach().cpu().clone() for name, value in self.plain.state_dict().items()}
        with path.open("wb") as file:
            torch.save(state, file)


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module that ``torch.compile`` was given; any other as it is."""
    plain = getattr(module, "_orig_mod", module)
    return plain if isinstance(plain, nn.Module) else module


def tensor_of(vector: Vector) -> Tensor:
    """Return a tensor that shares the memory of ``vector``, (d,).

    A worker may read the model in the master's memory, where it cannot write. torch has no read-only tensors, and warns.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        return torch.from_numpy(vector)


def _check(name: str, parameter: nn.Parameter) -> None:
    if isinstance(parameter, nn.UninitializedParameter):
        raise ParameterError(f"parameter {name!r} has no shape yet: pass a batch through the model first")
    if parameter.dtype not in _SUPPORTED:
        raise ParameterError(f"parameter {name!r} is {parameter.dtype}; supported: {', '.join(map(str, _SUPPORTED))}")
    if parameter.device.type != "cpu":
        raise ParameterError(f"parameter {name!r} is on {parameter.device}: it has no values")

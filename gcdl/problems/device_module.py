"""A module that computes on a GPU; its parameters come from the host, its gradient may stay."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gcdl.problems.flat import FlatModule, tensor_of
from gcdl.types import Vector


class DeviceModule(FlatModule):
    """Moves a module to a device. Its parameters are views of one flat tensor there.

    Parameters
    ----------
    flat : the module on the host.
    device : where it goes.
    """

    def __init__(self, flat: FlatModule, device: torch.device) -> None:
        self.module = flat.module.to(device)
        self.plain = flat.plain
        self.parameters = flat.parameters
        self.layout = flat.layout
        self._flat = torch.from_numpy(flat.gather()).to(device)
        self._views(self._flat)

    def bind(self, parameters: Vector | Tensor) -> None:
        """Copy ``parameters``, (d,), to the device; they may be there already."""
        self._flat.copy_(tensor_of(parameters) if isinstance(parameters, np.ndarray) else parameters)
        self._views(self._flat)

    def backward(self, loss: Tensor, out: Vector | Tensor, *, add: bool) -> None:
        """Write (or add) the gradient of a scalar loss into ``out``, (d,): a tensor there, or an array of the host."""
        for where, gradient in zip(self.layout.slices, self._gradients(loss), strict=True):
            into = torch.from_numpy(out[where]) if isinstance(out, np.ndarray) else out[where]
            part = gradient.reshape(-1).to(into.device)
            if add:
                into += part
            else:
                into.copy_(part)

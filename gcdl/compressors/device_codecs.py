"""Codecs whose vectors are tensors of a PyTorch device. They compress; the master decodes, on its processors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.base import Draw, Message, State, Stateless, Voteless
from gcdl.compressors.identity import IdentityCodec
from gcdl.compressors.kernels import torch_ops
from gcdl.types import Buffer, Vector

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class DeviceMemory:
    """A device's memory: a wrapper's vectors come to the host for a checkpoint only."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def zeros(self, d: int) -> Tensor:
        """Return (d,) zeros."""
        return torch_ops.zeros(d, self._device)

    def copy_out(self, vector: Tensor, out: Buffer) -> None:
        """Copy a vector to ``out``."""
        torch_ops.copy_to_host(vector, out)

    def copy_in(self, saved: Buffer, vector: Tensor) -> None:
        """Overwrite a vector with ``saved``."""
        torch_ops.copy_from_host(saved, vector)


class DeviceIdentityCodec(Stateless, Voteless):
    """Rounds on a device, and copies the rounded numbers to the host."""

    def __init__(self, host: IdentityCodec) -> None:
        self.payload_bytes = host.payload_bytes
        self._dtype = host.dtype

    def compress(self, x: Tensor, state: State, draw: Draw, out: Buffer, plus: Tensor | None = None) -> State:
        """Write x + plus to ``out``."""
        if plus is not None:
            x += plus
        torch_ops.copy_to_host(torch_ops.rounded(x, self._dtype), out)
        return state

    def remainder(self, x: Tensor, payload: Buffer, draw: Draw, into: Tensor) -> None:
        """Overwrite ``into`` with what rounding took off."""
        torch_ops.rounding_error(x, self._dtype, into)

    threads = 1

    def decode(self, messages: Sequence[Message], into: Vector) -> None:
        """Never called: the master decodes with the codec that this one was made of."""
        raise NotImplementedError

    def energies(self, payload: Buffer, agreed: Vector | None = None) -> NDArray[np.float64]:
        """Never called either."""
        raise NotImplementedError

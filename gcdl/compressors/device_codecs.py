"""Codecs whose vectors are tensors of a PyTorch device. They compress; the master decodes, on its processors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.base import Codec, Draw, Message, State, Stateless, Voteless
from gcdl.compressors.error_feedback import ErrorFeedbackCodec, Residual
from gcdl.compressors.identity import IdentityCodec
from gcdl.compressors.kernels import torch_ops
from gcdl.types import Buffer, Layout, Vector

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class DeviceErrorFeedbackCodec(ErrorFeedbackCodec):
    """Error feedback whose residuals are tensors of a device. They come to the host for a checkpoint only."""

    def __init__(self, inner: Codec, layout: Layout, device: torch.device) -> None:
        super().__init__(inner, layout)
        self._device = device

    def init(self) -> Residual:
        """Return a residual of zeros."""
        kept, candidate = (torch_ops.zeros(self.layout.size, self._device) for _ in range(2))
        return Residual(kept, candidate, -1, self.inner.init())

    def dump(self, state: Residual, out: Buffer) -> None:
        """Write e, (d,) float32, then the inner state."""
        size = 4 * self.layout.size
        torch_ops.copy_to_host(state.kept, out[:size])
        self.inner.dump(state.inner, out[size:])

    def load(self, saved: Buffer) -> Residual:
        """Return the residual that was dumped."""
        state, size = self.init(), 4 * self.layout.size
        torch_ops.copy_from_host(saved[:size], state.kept)
        state.inner = self.inner.load(saved[size:])
        return state


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

    def decode(self, messages: Sequence[Message], into: Vector) -> None:
        """Never called: the master decodes with the codec that this one was made of."""
        raise NotImplementedError

    def energies(self, payload: Buffer, agreed: Vector | None = None) -> NDArray[np.float64]:
        """Never called either."""
        raise NotImplementedError

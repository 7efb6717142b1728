"""A worker's codec where its gradient lies: on a GPU it gives the same bits, and its residuals stay on the device.

What needs PyTorch is imported only where a gradient is on a device.
"""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING, Any

from gcdl.compressors.base import Codec
from gcdl.compressors.eden import EdenCodec
from gcdl.compressors.error_feedback import ErrorFeedbackCodec
from gcdl.compressors.identity import IdentityCodec
from gcdl.compressors.momentum import MomentumCodec
from gcdl.compressors.sign_codec import SignCodec

if TYPE_CHECKING:
    import torch


@singledispatch
def to_device(codec: Codec, device: torch.device) -> Codec | None:
    """Return a codec that compresses vectors on a PyTorch device to the bits that ``codec`` gives for the same numbers.

    It does not decode. None: this kind of codec computes on the host only; ``to_device.register`` takes in another kind.
    """
    return None


@to_device.register(SignCodec)
def _sign(codec: SignCodec, device: torch.device) -> Codec:
    from gcdl.compressors.kernels.torch_ops import TorchKernels

    return codec.with_kernels(TorchKernels(codec.layout.size, device))


@to_device.register(EdenCodec)
def _eden(codec: EdenCodec, device: torch.device) -> None:
    """EDEN compresses on the host: its rotation is not among the kernels by PyTorch."""


@to_device.register(IdentityCodec)
def _identity(codec: IdentityCodec, device: torch.device) -> Any:
    from gcdl.compressors.device_codecs import DeviceIdentityCodec

    return DeviceIdentityCodec(codec)


@to_device.register(ErrorFeedbackCodec)
def _error_feedback(codec: ErrorFeedbackCodec, device: torch.device) -> Codec | None:
    from gcdl.compressors.device_codecs import DeviceMemory

    inner = to_device(codec.inner, device)
    return None if inner is None else ErrorFeedbackCodec(inner, codec.layout, codec.decay, DeviceMemory(device))


@to_device.register(MomentumCodec)
def _momentum(codec: MomentumCodec, device: torch.device) -> Codec | None:
    from gcdl.compressors.device_codecs import DeviceMemory

    inner = to_device(codec.inner, device)
    memory = DeviceMemory(device)
    return None if inner is None else MomentumCodec(inner, codec.layout, codec.beta1, codec.beta2, memory)


def vector_and_codec(gradient: Any, codec: Codec, d: int) -> tuple[Any, Codec]:
    """Return the vector, (d,), that a worker computes its coded gradient into, and the codec that compresses it.

    None, and the codec as it is, where the gradient lies on the host, or where this codec computes on the host only.
    """
    device = getattr(gradient, "device", None)
    if device is None or device.type == "cpu":
        return None, codec
    there = to_device(codec, device)
    if there is None:
        return None, codec
    from gcdl.compressors.kernels.torch_ops import zeros

    return zeros(d, device), there

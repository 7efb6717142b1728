"""Scaled sign: Q(x)_j = mean|x| * sign(x_j), the mean taken over x_j's tensor.

Source: Karimireddy et al., *Error Feedback Fixes SignSGD*, ICML 2019. Biased, but a contraction:
||x - Q(x)||^2 = (1 - ||x||_1^2 / (d ||x||_2^2)) ||x||^2, which is what error feedback needs; without it the bias stays.
With error feedback this is COCO-EF (Li, Xiao, Skoglund, arXiv 2603.16353). ceil(d/8) bytes + 4 per tensor. At exact zero it
sends + mean|x|; a tensor of zeros has scale 0 and decodes to zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

from gcdl.compressors.base import Draw
from gcdl.compressors.bits import mean_abs, pack_signs
from gcdl.compressors.sign_codec import Scratch, SignCodec
from gcdl.types import Buffer, Layout, Vector


@dataclass(frozen=True)
class ScaledSign:
    """One bit, scale mean|x| per tensor."""

    def codec(self, layout: Layout) -> SignCodec:
        """Return a codec of ceil(d/8) + 4 T bytes a message."""
        return SignCodec(layout, quantise, scaled=True)


def quantise(x: Vector, layout: Layout, draw: Draw, bits: Buffer, scales: Vector, scratch: Scratch) -> None:
    """Write the signs of x and the mean magnitude of each tensor."""
    for tensor, where in enumerate(layout.slices):
        scales[tensor] = mean_abs(x[where], scratch.block)
    pack_signs(x, bits, scratch.signs)

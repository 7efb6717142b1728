"""Stochastic sign: Q(x)_j = +M with probability 1/2 + x_j / (2M), else -M, with one M per tensor.

In the manner of 1-bit gradient coding (Li and Skoglund, arXiv 2403.14716); also Safaryan and Richtarik 2021, and Jin et
al. 2020. Unbiased for M >= max|x|; variance M^2 - x_j^2. Scales:

- ``max``: M = max|x|. Unbiased.
- ``l2``: M = ||x||_2. Unbiased; far more variance on long tensors.
- ``rms``: M = clip * rms(x). Coordinates beyond M are clipped to +-M: a little biased, far less variance.

A coordinate that is exactly zero is +M or -M with probability 1/2 each: mean zero, no drift. A tensor of zeros has M = 0
and decodes to zeros. ceil(d/8) bytes + 4 per tensor.

How: the bit is x_j > M (2u - 1), u uniform. We draw r, 16 random bits as a signed integer, and one uniform delta in [0, 1)
per block of coordinates: (r + delta) / 2^15 is then uniform on [-1, 1), so the 16-bit grid adds no bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from gcdl.compressors.base import Draw
from gcdl.compressors.bits import DRAW_BLOCK, max_abs, norm2, packed_bytes, pieces
from gcdl.compressors.sign_codec import Scratch, SignCodec
from gcdl.types import Buffer, Layout, Positive, Vector

_HALF_RANGE = float(1 << 15)
_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = 1e-34  # below this, 2^15 / M overflows float32: such a tensor is sent as zeros


@dataclass(frozen=True)
class StochasticSign:
    """One random bit per coordinate.

    Parameters
    ----------
    scale : what M is.
    dither : how the workers' random numbers relate. ``independent``: not at all.
    clip : M = clip * rms(x) for ``scale = "rms"``; larger is less biased and noisier.
    """

    scale: Literal["max", "l2", "rms"] = "max"
    dither: Literal["independent"] = "independent"
    clip: Positive = 2.0

    def codec(self, layout: Layout) -> SignCodec:
        """Return a codec of ceil(d/8) + 4 T bytes a message."""
        return SignCodec(layout, self.quantise, scaled=True, signal_share=self.signal_share)

    def magnitude(self, x: Vector) -> float:
        """Return M for one tensor."""
        if self.scale == "max":
            return max_abs(x)
        return norm2(x) * (1.0 if self.scale == "l2" else self.clip / max(x.size, 1) ** 0.5)

    def signal_share(self, size: int) -> float:
        """Return ||x||^2 / (size M^2) of a tensor: exact for l2 and rms, for max as if x were normal.

        The median of max|x| over ``size`` standard normals is the z with P(|x| <= z)^size = 1/2. Heavier tails have a smaller
        share: then the noise is a little more than this says.
        """
        if self.scale == "l2":
            return 1.0 / size
        if self.scale == "rms":
            return 1.0 / self.clip**2
        return 1.0 / max(1.0, NormalDist().inv_cdf((1.0 + 0.5 ** (1.0 / size)) / 2.0)) ** 2

    def quantise(self, x: Vector, layout: Layout, draw: Draw, bits: Buffer, scales: Vector, scratch: Scratch) -> None:
        """Write one random bit per coordinate and M of each tensor."""
        # Rounded to float32 first: what is sent is what the bits were drawn for.
        for tensor, where in enumerate(layout.slices):
            magnitude = self.magnitude(x[where])
            scales[tensor] = min(magnitude, _LARGEST) if magnitude > _SMALLEST else 0.0
        for block, start in enumerate(range(0, x.size, DRAW_BLOCK)):
            stop = min(start + DRAW_BLOCK, x.size)
            rng = draw.rng(block)
            delta = np.float32(rng.random())
            r = rng.bit_generator.random_raw((stop - start + 3) // 4).view(np.int16)[: stop - start]
            threshold = scratch.block[: stop - start]
            for tensor, where in pieces(layout, start, stop):
                # In units of M / 2^15. A zero M leaves a fair coin, whose value is zero.
                unit = _HALF_RANGE / float(scales[tensor]) if scales[tensor] > 0.0 else 0.0
                np.multiply(x[start + where.start : start + where.stop], np.float32(unit), out=threshold[where])
            threshold -= delta
            signs = np.greater(threshold, r, out=scratch.signs[: stop - start])
            bits[start // 8 : packed_bytes(stop)] = np.packbits(signs)

"""Stochastic sign: Q(x)_j = +M with probability 1/2 + x_j / (2M), else -M, with one M per tensor, or per block of one.

In the manner of 1-bit gradient coding (Li and Skoglund, arXiv 2403.14716); also Safaryan and Richtarik 2021, and Jin et
al. 2020. Unbiased for M >= max|x|; variance M^2 - x_j^2, and M^2 / 3 with subtractive dither. Scales:

- ``rms``: M = clip * rms(x). Coordinates beyond M are clipped to +-M: a little biased, far less variance.
- ``max``: M = max|x|. Unbiased.
- ``l2``: M = ||x||_2. Unbiased; far more variance on long tensors.

The defaults are those that trained best where it was measured (benchmarks/README.md). The quantiser of the papers is
``scale = "max", dither = "independent"``.

A coordinate that is exactly zero is +M or -M with probability 1/2 each: mean zero, no drift. A tensor of zeros has M = 0
and decodes to zeros. A NaN or an infinity never gets here: the worker raises first. ceil(d/8) bytes + 4 per scale.

How: the bit is x_j > M U_j, U uniform on [-1, 1); see :mod:`gcdl.compressors.dither`. With subtractive dither the value is
M (+-1 + U_j).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from gcdl.compressors import scales
from gcdl.compressors.dither import DitherName
from gcdl.compressors.noise import UniformNoise
from gcdl.compressors.scales import Scale
from gcdl.compressors.sign_codec import SignCodec, lost_share
from gcdl.types import Layout, Natural, Positive


@dataclass(frozen=True)
class StochasticSign:
    """One random bit per coordinate.

    Parameters
    ----------
    scale : what M is.
    dither : how the workers' random numbers relate, and whether the master takes the noise out again.
    clip : M = clip * rms(x) for ``scale = "rms"``; larger is less biased and noisier.
    block : consecutive coordinates of a tensor that share an M; 0 for a whole tensor.
    agreed : all workers use one M in a step, ``margin`` times the largest that any had in the step before; what lies beyond
        it is clipped, and counted. Then replies are votes, which a downlink can send back in few bits. None: no; in a config,
        if the downlink counts votes.
    margin : larger clips less and is noisier.
    """

    scale: Literal["max", "l2", "rms"] = "rms"
    dither: DitherName = "correlated+subtractive"
    clip: Positive = 1.5
    block: Natural = 0
    agreed: bool | None = None
    margin: Positive = 1.2

    def codec(self, layout: Layout) -> SignCodec:
        """Return a codec of ceil(d/8) + 4 G bytes a message, G the number of scales."""
        noise = UniformNoise(self.dither)
        return SignCodec(
            layout,
            scale=self._scale(),
            block=self.block,
            noise=noise,
            margin=self.margin if self.agreed else 0.0,
            signal_share=self.signal_share,
            noise_share=(lambda share: 1.0 / 3.0) if noise.dither.subtractive else lost_share,
        )

    def _scale(self) -> Scale:
        if self.scale == "max":
            return scales.maximum()
        return scales.norm() if self.scale == "l2" else scales.rms(self.clip)

    def signal_share(self, size: int) -> float:
        """Return ||x||^2 / (size M^2) of a group: exact for l2 and rms, for max as if x were normal.

        The median of max|x| over ``size`` standard normals is the z with P(|x| <= z)^size = 1/2. Heavier tails have a smaller
        share: then the noise is a little more than this says.
        """
        if self.scale == "l2":
            return 1.0 / size
        if self.scale == "rms":
            return 1.0 / self.clip**2
        return 1.0 / max(1.0, NormalDist().inv_cdf((1.0 + 0.5 ** (1.0 / size)) / 2.0)) ** 2

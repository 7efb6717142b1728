"""Noisy sign: Q(x)_j = M sign(x_j - N_j), N normal with standard deviation sigma = noise * rms(x), M = sigma sqrt(pi / 2).

Source: Chen et al., *Distributed Training with Heterogeneous Data: Bridging Median- and Mean-Based Algorithms*, NeurIPS 2020;
with this scale, Tang et al., *z-SignFedAvg*, AAAI 2024. The mean is M erf(x_j / (sigma sqrt 2)) = x_j - x_j^3 / (6 sigma^2) +
...: biased towards zero, the less the larger the noise; never clipped hard. Variance M^2 - mean^2; with subtractive dither,
which adds N_j to the value, 0.36 M^2 at x_j = 0 and sigma^2 = 0.64 M^2 far from it. At exact zero the mean is zero: no drift.
A tensor of zeros decodes to zeros. A NaN or an infinity never gets here: the worker raises first. ceil(d/8)
bytes + 4 per scale.

N is drawn from the 2^16 midpoints of equally likely intervals: probabilities are right to 2^-17.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gcdl.compressors import scales
from gcdl.compressors.dither import DitherName
from gcdl.compressors.noise import NormalNoise
from gcdl.compressors.sign_codec import SignCodec, lost_share
from gcdl.types import Layout, Natural, Positive

_ROOT = math.sqrt(math.pi / 2.0)


@dataclass(frozen=True)
class NoisySign:
    """The sign after adding normal noise.

    Parameters
    ----------
    noise : sigma in units of rms(x); larger is less biased and noisier.
    dither : how the workers' random numbers relate, and whether the master takes the noise out again.
    block : consecutive coordinates of a tensor that share a scale; 0 for a whole tensor.
    agreed, margin : as for the stochastic sign.
    """

    noise: Positive = 1.0
    dither: DitherName = "independent"
    block: Natural = 0
    agreed: bool | None = None
    margin: Positive = 1.2

    def codec(self, layout: Layout) -> SignCodec:
        """Return a codec of ceil(d/8) + 4 G bytes a message, G the number of scales."""
        noise = NormalNoise(self.dither)
        return SignCodec(
            layout,
            scale=scales.rms(self.noise * _ROOT),
            block=self.block,
            noise=noise,
            margin=self.margin if self.agreed else 0.0,
            signal_share=lambda size: 1.0 / (self.noise * _ROOT) ** 2,
            noise_share=(lambda share: 1.0 - 2.0 / math.pi) if noise.dither.subtractive else lost_share,
        )

"""Scaled sign: Q(x)_j = mean|x| * sign(x_j), the mean taken over x_j's tensor, or over its block of it.

Source: Karimireddy et al., *Error Feedback Fixes SignSGD*, ICML 2019. Biased, variance 0, but a contraction:
||x - Q(x)||^2 = (1 - ||x||_1^2 / (d ||x||_2^2)) ||x||^2, which is what error feedback needs; without it the bias stays.
With error feedback this is COCO-EF (Li, Xiao, Skoglund, arXiv 2603.16353). ceil(d/8) bytes + 4 per scale. At exact zero it
sends + mean|x|; a tensor of zeros has scale 0 and decodes to zeros. A NaN or an infinity never gets here: the worker raises
first.
"""

from __future__ import annotations

from dataclasses import dataclass

from gcdl.compressors import scales
from gcdl.compressors.sign_codec import SignCodec
from gcdl.types import Layout, Natural, Positive


@dataclass(frozen=True)
class ScaledSign:
    """One bit, scale mean|x|.

    Parameters
    ----------
    block : consecutive coordinates of a tensor that share a scale; 0 for a whole tensor.
    agreed, margin : as for the stochastic sign; nothing is clipped here.
    """

    block: Natural = 0
    agreed: bool | None = None
    margin: Positive = 1.0

    def codec(self, layout: Layout) -> SignCodec:
        """Return a codec of ceil(d/8) + 4 G bytes a message, G the number of scales."""
        return SignCodec(layout, scale=scales.mean_abs(), block=self.block, margin=self.margin if self.agreed else 0.0)

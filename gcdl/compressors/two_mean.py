"""Two means: Q(x)_j = the mean of the x >= 0 if x_j >= 0, else the mean of the x < 0, over x_j's tensor or block.

Source: Seide et al., *1-Bit Stochastic Gradient Descent and its Application to Data-Parallel Distributed Training of Speech
DNNs*, Interspeech 2014, whose threshold is zero too. Of all two values at that threshold these leave the least squared error,
||x||^2 - (sum over the two kinds of count * mean^2). Biased, variance 0: meant for error feedback. ceil(d/8) bytes + 8 per
pair of values. At exact zero it sends the upper mean; a tensor of zeros decodes to zeros, and one of equal values to itself.
A NaN or an infinity never gets here: the worker raises first.
"""

from __future__ import annotations

from dataclasses import dataclass

from gcdl.compressors import scales
from gcdl.compressors.sign_codec import SignCodec
from gcdl.types import Layout, Natural


@dataclass(frozen=True)
class TwoMean:
    """One bit, a value for each of its two states.

    Parameters
    ----------
    block : consecutive coordinates of a tensor that share the two values; 0 for a whole tensor.
    """

    block: Natural = 0

    def codec(self, layout: Layout) -> SignCodec:
        """Return a codec of ceil(d/8) + 8 G bytes a message, G the number of pairs."""
        return SignCodec(layout, scale=scales.two_means(), block=self.block)

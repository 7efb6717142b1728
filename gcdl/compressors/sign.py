"""Sign: Q(x)_j = +1 if x_j >= 0, else -1.

Source: signSGD (Bernstein et al., ICML 2018). Biased: the magnitude is lost, so the learning rate alone sets how far a
step goes. Variance 0. No scale travels: ceil(d/8) bytes. At exact zero (and at -0.0) it sends +1, so the weight of a
coordinate that is always zero drifts by the learning rate each step: prefer ``stochastic_sign``, or error feedback, for
sparse gradients. A NaN or an infinity never gets here: the worker raises first.
"""

from __future__ import annotations

from dataclasses import dataclass

from gcdl.compressors.sign_codec import SignCodec
from gcdl.types import Layout


@dataclass(frozen=True)
class Sign:
    """One bit, scale one."""

    def codec(self, layout: Layout) -> SignCodec:
        """Return a codec of ceil(d/8) bytes a message."""
        return SignCodec(layout)

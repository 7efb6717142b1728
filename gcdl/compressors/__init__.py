"""Compressors. A new one is a file with a :class:`Compressor`, and a line in :data:`COMPRESSORS`.

The constructor's parameters are the keys of the config's ``[compressor]`` table, beside ``error_feedback`` and ``momentum``,
which wrap any of them.
"""

from collections.abc import Callable

from gcdl.compressors.base import Codec, Compressor, Draw, Message, State
from gcdl.compressors.eden import Eden
from gcdl.compressors.error_feedback import ErrorFeedback
from gcdl.compressors.identity import Identity
from gcdl.compressors.momentum import Momentum, MomentumName
from gcdl.compressors.noisy_sign import NoisySign
from gcdl.compressors.scaled_sign import ScaledSign
from gcdl.compressors.sign import Sign
from gcdl.compressors.stochastic_sign import StochasticSign
from gcdl.compressors.two_mean import TwoMean
from gcdl.compressors.votes import Votes

COMPRESSORS: dict[str, Callable[..., Compressor]] = {
    "identity": Identity,
    "sign": Sign,
    "scaled_sign": ScaledSign,
    "stochastic_sign": StochasticSign,
    "noisy_sign": NoisySign,
    "two_mean": TwoMean,
    "eden": Eden,
}

__all__ = [
    "COMPRESSORS",
    "Codec",
    "Compressor",
    "Draw",
    "Eden",
    "ErrorFeedback",
    "Identity",
    "Message",
    "Momentum",
    "MomentumName",
    "NoisySign",
    "ScaledSign",
    "Sign",
    "State",
    "StochasticSign",
    "TwoMean",
    "Votes",
]

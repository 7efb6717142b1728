"""Compressors. A new one is a file with a :class:`Compressor`, and a line in :data:`COMPRESSORS`.

The constructor's parameters are the keys of the config's ``[compressor]`` table, beside ``error_feedback``, which wraps
any of them.
"""

from collections.abc import Callable

from gcdl.compressors.base import Codec, Compressor, Draw, Message, State
from gcdl.compressors.error_feedback import ErrorFeedback
from gcdl.compressors.identity import Identity
from gcdl.compressors.scaled_sign import ScaledSign
from gcdl.compressors.sign import Sign
from gcdl.compressors.stochastic_sign import StochasticSign

COMPRESSORS: dict[str, Callable[..., Compressor]] = {
    "identity": Identity,
    "sign": Sign,
    "scaled_sign": ScaledSign,
    "stochastic_sign": StochasticSign,
}

__all__ = [
    "COMPRESSORS",
    "Codec",
    "Compressor",
    "Draw",
    "ErrorFeedback",
    "Identity",
    "Message",
    "ScaledSign",
    "Sign",
    "State",
    "StochasticSign",
]

"""Injected delays. A new model is a file with a :class:`StragglerModel`, and a line in :data:`STRAGGLERS`.

Keyword-only arguments of the constructor are the keys of the config's ``[stragglers]`` table; ``n``, where it is asked
for, is the number of workers.
"""

from collections.abc import Callable

from gcdl.stragglers.base import StragglerModel, delays_at
from gcdl.stragglers.bernoulli import BernoulliDelays
from gcdl.stragglers.faults import Fault, FaultName, InjectedError, flip_bits
from gcdl.stragglers.fixed import FixedDelays
from gcdl.stragglers.none import NoDelays

STRAGGLERS: dict[str, Callable[..., StragglerModel]] = {
    "none": NoDelays,
    "fixed": FixedDelays,
    "bernoulli": BernoulliDelays,
}

__all__ = [
    "STRAGGLERS",
    "BernoulliDelays",
    "Fault",
    "FaultName",
    "FixedDelays",
    "InjectedError",
    "NoDelays",
    "StragglerModel",
    "delays_at",
    "flip_bits",
]

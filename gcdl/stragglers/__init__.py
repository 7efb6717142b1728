"""Injected delays. A new model is a file with a :class:`StragglerModel`, and a line in :data:`STRAGGLERS`.

Keyword-only arguments of the constructor are the keys of the config's ``[stragglers]`` table; ``n``, where it is asked
for, is the number of workers.
"""

from collections.abc import Callable

from gcdl.stragglers.base import AnyModel, Delays, StepKey, StepModel, StragglerModel, delays_at
from gcdl.stragglers.bernoulli import BernoulliDelays
from gcdl.stragglers.bursts import BurstDelays
from gcdl.stragglers.combine import BeforeSending, SumOfModels
from gcdl.stragglers.exactly import ExactlyDelays
from gcdl.stragglers.exponential import ExponentialDelays, ShiftedExponentialDelays
from gcdl.stragglers.faults import Fault, FaultName, InjectedError, flip_bits
from gcdl.stragglers.fixed import FixedDelays
from gcdl.stragglers.none import NoDelays
from gcdl.stragglers.pareto import ParetoDelays
from gcdl.stragglers.speeds import SpeedFactors
from gcdl.stragglers.trace import TraceDelays, read_trace, write_trace

STRAGGLERS: dict[str, Callable[..., AnyModel]] = {
    "none": NoDelays,
    "fixed": FixedDelays,
    "bernoulli": BernoulliDelays,
    "exactly": ExactlyDelays,
    "exponential": ExponentialDelays,
    "shifted_exponential": ShiftedExponentialDelays,
    "pareto": ParetoDelays,
    "bursts": BurstDelays,
    "speeds": SpeedFactors,
    "trace": TraceDelays,
    "sum": SumOfModels,
}

__all__ = [
    "STRAGGLERS",
    "AnyModel",
    "BeforeSending",
    "BernoulliDelays",
    "BurstDelays",
    "Delays",
    "ExactlyDelays",
    "ExponentialDelays",
    "Fault",
    "FaultName",
    "FixedDelays",
    "InjectedError",
    "NoDelays",
    "ParetoDelays",
    "ShiftedExponentialDelays",
    "SpeedFactors",
    "StepKey",
    "StepModel",
    "StragglerModel",
    "SumOfModels",
    "TraceDelays",
    "delays_at",
    "flip_bits",
    "read_trace",
    "write_trace",
]

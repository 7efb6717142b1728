"""The keys of ``[compressor]`` that every kind has: what goes around the compressor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Gt, Le

from gcdl.compressors import Compressor, ErrorFeedback, Momentum, MomentumName
from gcdl.config.schema import Table
from gcdl.errors import ConfigError
from gcdl.types import Fraction


class Residual(Table):
    """``error_feedback = {decay = 0.9}``."""

    decay: Annotated[float, Gt(0.0), Le(1.0)]
    """Share of the residual that a worker keeps from one used reply to the next; 1: all of it, as with ``true``."""


WRAPPERS: dict[str, tuple[Any, Any]] = {
    "error_feedback": (bool | Residual, False),
    "momentum": (MomentumName | None, None),
    "beta1": (Fraction | None, None),
    "beta2": (Fraction | None, None),
}
"""Their types and defaults. The betas are the momentum's."""


def wrapped(compressor: Compressor, values: Mapping[str, Any]) -> Compressor:
    """Return the compressor with error feedback around it, and momentum around both, as the table's values say.

    Raises
    ------
    ConfigError : a beta without a momentum that has it.
    """
    feedback = values["error_feedback"]
    if feedback:
        compressor = ErrorFeedback(compressor, feedback.decay if isinstance(feedback, Residual) else 1.0)
    momentum, beta1, beta2 = (values.get(key) for key in ("momentum", "beta1", "beta2"))
    if momentum is not None:
        try:
            return Momentum.named(momentum, compressor, beta1, beta2)
        except ConfigError as error:
            raise ConfigError(f"compressor.{error}") from None
    for key, beta in (("beta1", beta1), ("beta2", beta2)):
        if beta is not None:
            raise ConfigError(f"compressor.{key}: {beta}: belongs to a momentum; set compressor.momentum to lion or signum")
    return compressor

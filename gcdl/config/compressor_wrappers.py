"""The keys of ``[compressor]`` that every kind has: what goes around the compressor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gcdl.compressors import Compressor, ErrorFeedback, Momentum, MomentumName
from gcdl.errors import ConfigError
from gcdl.types import Fraction

WRAPPERS: dict[str, tuple[Any, Any]] = {
    "error_feedback": (bool, False),
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
    if values["error_feedback"]:
        compressor = ErrorFeedback(compressor)
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

"""The arguments of a :class:`gcdl.Trainer` as a config: a kind or a table is checked, an object is taken as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gcdl.codes import GradientCode
from gcdl.config.factories import Given
from gcdl.config.schema import Choice
from gcdl.config.values import SECTIONS
from gcdl.errors import ConfigError, ParameterError
from gcdl.optimizers import TorchOptimizer

Table = str | Mapping[str, Any]
"""A ``kind``, or a table of the config: ``{"kind": "sgc", "replication": 3}``."""

_ONE_IS_ENOUGH = {
    "code": "decoding_vector", "compressor": "codec", "wait": "enough", "stragglers": "delays", "optimizer": "build",
}  # fmt: skip
"""A method of each kind of object. A given object that has it is used as it is; a callable without it is a factory."""


def choice_of(name: str, given: Any) -> Choice | Given:
    """Return the config's entry for the table ``name``: of a kind or a table, checked; or of an object, or of its factory.

    Raises
    ------
    ConfigError : it is neither, or the table is wrong.
    """
    section = SECTIONS[name]
    if isinstance(given, str | Mapping):
        return section.check(table_of(given))
    extra = {key: default for key, (_, default) in section.extra.items() if name != "optimizer"}
    if hasattr(given, _ONE_IS_ENOUGH[name]) and not isinstance(given, type):
        if isinstance(given, GradientCode):
            return Given(name, lambda n, k: _of_size(given, n, k), extra)
        return Given(name, lambda: given, extra)
    if callable(given):
        return Given(name, (lambda: TorchOptimizer(given)) if name == "optimizer" else given, extra)
    raise ConfigError(
        f"{name}: a {type(given).__name__}; take a kind, a table, or an object with a method {_ONE_IS_ENOUGH[name]}"
    )


def _of_size(code: GradientCode, n: int, k: int) -> GradientCode:
    if code.B.shape != (n, k):
        raise ParameterError(f"its B is {code.B.shape[0]} x {code.B.shape[1]}; there are {n} workers and {k} shards")
    return code


def table_of(given: Table) -> Mapping[str, Any]:
    """Return a table, also of a kind alone."""
    return {"kind": given} if isinstance(given, str) else given


def count_of(name: str, value: Any, least: int) -> int:
    """Return ``value`` if it is a whole number, ``least`` at least.

    Raises
    ------
    ConfigError : it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 31:
        raise ConfigError(f"{name}: {value!r}: must be a whole number, {least} at least")
    return value

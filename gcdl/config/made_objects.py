"""Checks the objects that a user's factory or script made, when they are built: not in the middle of a run, on some rank."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gcdl.codes import DECODERS, GradientCode
from gcdl.config.factories import Given
from gcdl.config.schema import Choice
from gcdl.errors import ConfigError


@dataclass(frozen=True)
class _Wanted:
    """What the run needs of an object: its ``methods``, and ``numbers`` among its attributes; ``what`` says it to the user."""

    what: str
    methods: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()


_WANTED = {
    "problem": _Wanted(
        "a gcdl.TorchProblem, or an object as gcdl.problems.Problem describes it",
        ("layout", "initial_parameters", "load", "gradient", "evaluator", "save"),
        ("k",),
    ),
    "code": _Wanted("a gcdl.GradientCode"),
    "compressor": _Wanted("an object with a method codec, as gcdl.compressors.Compressor describes it", ("codec",)),
    "wait": _Wanted(
        "an object as gcdl.protocol.wait_rules.WaitRule describes it",
        ("enough", "lacking", "feasible", "losses_left"),
        ("timeout", "patience"),
    ),
    "stragglers": _Wanted("an object with a method delays, as gcdl.stragglers.StragglerModel describes it", ("delays",)),
    "optimizer": _Wanted("a gcdl.TorchOptimizer, or an object with a method build, which makes an optimizer", ("build",)),
}


def check_made(table: str, choice: Choice | Given, made: Any, context: Mapping[str, Any]) -> None:
    """Check the object that was made for a table of kind custom; ``context``: the run's n and k, where they are known.

    Raises
    ------
    ConfigError : it is not what the table needs; names the table, the function, what came, and what is wanted.
    """
    wrong = _wrong(table, made, context)
    if wrong is not None:
        source = ": the script's object" if isinstance(choice, Given) else f".factory: {choice.values['factory']}"
        raise ConfigError(f"{table}{source} {wrong}; wanted: {_WANTED[table].what}")


def _wrong(table: str, made: Any, context: Mapping[str, Any]) -> str | None:
    """Say what is wrong with an object; None: nothing."""
    came = f"is {made!r}" if made is None or isinstance(made, str | int | float) else f"is a {type(made).__name__}"
    if isinstance(made, type):
        return f"is the class {made.__name__}, not an object of it"
    if table == "code":
        return _wrong_code(made, context) if isinstance(made, GradientCode) else came
    if table == "stragglers" and callable(getattr(made, "delays_at", None)):
        return None
    wanted = _WANTED[table]
    lacking = [name for name in wanted.methods if not callable(getattr(made, name, None))]
    lacking += [name for name in wanted.numbers if not isinstance(getattr(made, name, None), numbers.Real)]
    return f"{came} without {', '.join(lacking)}" if lacking else None


def _wrong_code(code: GradientCode, context: Mapping[str, Any]) -> str | None:
    n, k = context["n"], context["k"]
    if code.B.shape != (n, k):
        return f"has a B of {code.B.shape[0]} x {code.B.shape[1]}; there are {n} workers and {k} shards"
    if not any(code.decoder is known for known in DECODERS.values()):
        return f"has a decoder that is none of gcdl.codes.DECODERS ({', '.join(DECODERS)})"
    return None

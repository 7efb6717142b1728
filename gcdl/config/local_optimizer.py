"""``problem.local_optimizer``: a table as of ``[optimizer]``, in a config or in a script's :class:`gcdl.TorchProblem`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gcdl.config.schema import Section
from gcdl.optimizers import OPTIMIZERS
from gcdl.problems import TorchProblem

LOCAL_OPTIMIZER = Section("local_optimizer", OPTIMIZERS, default="sgd")


def with_local_optimizer(problem: TorchProblem) -> TorchProblem:
    """Return the problem with the optimizer that its table names, if it was given a table.

    Raises
    ------
    ConfigError : the table is wrong.
    """
    given = problem.local_optimizer
    if not isinstance(given, str | Mapping):
        return problem
    table = {"kind": given} if isinstance(given, str) else given
    return replace(problem, local_optimizer=LOCAL_OPTIMIZER.check(table, "problem.local_optimizer").build())

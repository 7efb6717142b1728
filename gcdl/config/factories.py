"""``kind = "custom"``: the object is made by a function of the user's.

``factory = "package.module:function"`` names it, ``options`` are its keyword arguments. Parameters named n, k, seed, rng or
code get the run's. Every rank calls the function. Modules are looked for in the current folder first, as for a script.

A script can also hand an object to a :class:`gcdl.Trainer` (:class:`Given`). Then the resolved config says ``factory = ""``:
the run can be read and drawn, but only the script can run it again.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gcdl.config.local_optimizer import with_local_optimizer
from gcdl.errors import ConfigError, GcdlError, ParameterError
from gcdl.problems import TorchProblem
from gcdl.problems.device import AutocastName, DeviceName
from gcdl.problems.local_steps import MakeLocal
from gcdl.problems.minibatches import Sampling
from gcdl.types import Natural


def custom(
    *,
    factory: str,
    options: dict[str, Any] = {},  # noqa: B006 - a table, checked and never changed
    n: int | None = None,
    k: int | None = None,
    seed: int | None = None,
    rng: np.random.Generator | None = None,
    code: object | None = None,
) -> Any:
    """Return what the factory returns.

    Raises
    ------
    ParameterError : there is no such factory, its arguments are others, or it raises; names it.
    """
    run = {"n": n, "k": k, "seed": seed, "rng": rng, "code": code}
    function = find(factory)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise ParameterError(f"factory: {factory}: {function!r} is no function") from None
    supplied = {name: value for name, value in run.items() if name in parameters and value is not None}
    try:
        inspect.signature(function).bind(**{**supplied, **options})
    except TypeError as error:
        takes = ", ".join(name for name in parameters if name not in supplied) or "nothing"
        raise ParameterError(f"options: {factory}: {error}; it takes {takes}") from None
    try:
        return function(**{**supplied, **options})
    except GcdlError as error:
        raise ParameterError(f"factory: {factory}: {error}") from error
    except Exception as error:
        raise ParameterError(f"factory: {factory} raised {type(error).__name__}: {error}{_where(error)}") from error


def custom_problem(
    *,
    factory: str,
    options: dict[str, Any] = {},  # noqa: B006 - as above
    device: DeviceName | None = None,
    autocast: AutocastName | None = None,
    sampling: Sampling | None = None,
    num_workers: Natural | None = None,
    local_steps: int | None = None,
    local_optimizer: MakeLocal | None = None,
    k: int,
    seed: int,
) -> Any:
    """Return the problem that the factory returns. ``device`` and what follows replace the factory's choice.

    Raises
    ------
    ParameterError : as :func:`custom`; or one of them is given, and the problem is no :class:`gcdl.TorchProblem`.
    """
    made = custom(factory=factory, options=options, k=k, seed=seed)
    given: dict[str, Any] = {
        "device": device, "autocast": autocast, "sampling": sampling, "num_workers": num_workers,
        "local_steps": local_steps, "local_optimizer": local_optimizer,
    }  # fmt: skip
    changes = {name: value for name, value in given.items() if value is not None}
    if changes:
        if not isinstance(made, TorchProblem):
            name = next(iter(changes))
            raise ParameterError(f"{name}: {factory} returns a {type(made).__name__}, which decides that itself")
        made = replace(made, **changes)
    if isinstance(made, TorchProblem):
        if made.local_steps == "auto":
            raise ParameterError(f'local_steps: {factory} leaves it open; say problem.local_steps = "auto" in the config')
        return with_local_optimizer(made).bind(k, seed)
    return made.bind(k, seed) if hasattr(made, "bind") else made


def find(factory: str) -> Callable[..., Any]:
    """Return the function that ``package.module:function`` names.

    Raises
    ------
    ParameterError : there is none; says what is missing.
    """
    if not factory:
        raise ParameterError("factory: this run was made by a script from objects of its own; run that again, with resume=True")
    module_name, colon, path = factory.partition(":")
    if not colon or not module_name or not path:
        raise ParameterError(f"factory: {factory!r} must look like package.module:function")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ParameterError(f"factory: {factory}: there is no module {error.name!r} here ({here}) or installed") from None
        raise ParameterError(f"factory: {factory}: {module_name} needs a module {error.name!r}; it is not installed") from None
    except Exception as error:
        raise ParameterError(
            f"factory: {factory}: importing {module_name} raised {type(error).__name__}: {error}{_where(error)}"
        ) from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise ParameterError(f"factory: {factory}: {module_name} has no {path!r}")
        found = getattr(found, name)
    if not callable(found):
        raise ParameterError(f"factory: {factory}: {path} is a {type(found).__name__}, not a function")
    function: Callable[..., Any] = found
    return function


def _where(error: BaseException) -> str:
    """Return the file and line where an exception was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


@dataclass(frozen=True)
class Given:
    """Takes the place of a table (:class:`gcdl.config.schema.Choice`) where a script gave an object, or a factory.

    ``make`` returns the object. Its parameters named n, k, seed, rng or code get the run's.
    """

    name: str
    make: Callable[..., Any]
    values: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "custom"

    def build(self, **context: Any) -> Any:
        """Return the object.

        Raises
        ------
        ConfigError : it refuses what it is given.
        """
        wanted = inspect.signature(self.make).parameters
        try:
            return self.make(**{name: value for name, value in context.items() if name in wanted})
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {error}") from None

    def table(self) -> dict[str, Any]:
        """Return the table for the resolved config."""
        stated = {name: value for name, value in self.values.items() if value is not None}
        return {"kind": self.kind, "factory": "", **stated}

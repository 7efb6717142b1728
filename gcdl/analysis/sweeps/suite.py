"""A suite: what ``gcdl sweep`` runs. TOML -> the cells of a grid, each with a checked config.

::

    transport = "simulated"        # "mpi": each cell is a job of its own on this machine, measured
    seeds = [0, 1, 2]
    rates = [0.01, 0.03, 0.1]      # optimizer.lr: the same grid for all that is compared; left out: the config's own
    search = "grid"                # run every rate; "walk": from the grid's middle on, until a best rate's neighbours are worse
    tune = ["final_train_loss"]    # figures of a run, each minimised over the rates
    tune_seeds = 1                 # by their mean over the first so many seeds
    target = 0.5                   # a test loss: what it takes to get there is counted
    keep = "curves"                # "runs": every file of every run
    skip = [{method = "A", problem = "B"}]
    highlight = ["A"]              # five at most, of the last axis: what figures draw in colour; left out: the first five

    [base]                         # a config, as gcdl run takes it
    [axes.problem."B"]             # what is laid over it: the keys of a config, target, and rates (not in the last axis)
    [axes.method."A"]

The axes are the suite's own: any number, with any names; the last one is what is compared. Later axes are laid over earlier
ones, by the rules of ``key=value`` on the command line: another ``kind`` drops the keys that only the old kind has.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from annotated_types import Len
from pydantic import FiniteFloat

from gcdl.config import Config, laid_over, nested, of_tables, read_toml
from gcdl.config.schema import Table, validate
from gcdl.errors import ConfigError
from gcdl.types import Count, Natural, Positive

Figure = Literal[
    "final_train_loss", "final_test_loss", "seconds", "wall_seconds",
    "steps_to_target", "seconds_to_target", "payload_bits_to_target", "bytes_to_target",
]  # fmt: skip
"""What learning rates can be tuned by."""
Rates = tuple[Positive, ...]
MOST_HIGHLIGHTED = 5
"""Lines in colour in one figure: more can't be told apart."""
_OWN = frozenset({"lr", "seed", "chosen", "status", "message", "target"})
"""Columns of ``results.csv`` that an axis can't be named after."""


class _Own(Table):
    """What an axis may set beside the keys of a config."""

    target: FiniteFloat | None = None
    rates: Rates = ()


class _Top(_Own):
    base: dict[str, Any]
    axes: dict[str, dict[str, dict[str, Any]]]
    transport: Literal["simulated", "mpi"] = "simulated"
    seeds: Annotated[tuple[Natural, ...], Len(1)] = (0,)
    tune: Annotated[tuple[Figure, ...], Len(1)] = ("final_train_loss",)
    tune_seeds: Count = 1
    search: Literal["grid", "walk"] = "grid"
    keep: Literal["curves", "runs"] = "curves"
    highlight: Annotated[tuple[str, ...], Len(0, MOST_HIGHLIGHTED)] = ()
    skip: tuple[dict[str, str], ...] = ()
    overrides: tuple[str, ...] = ()
    """``key=value`` of the command line, laid over every cell. The sweep's folder keeps them."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid. ``place``: the value of each axis; ``folder``: its own, relative to the sweep's."""

    place: tuple[str, ...]
    rate: float
    seed: int
    config: Config
    folder: Path

    def __str__(self) -> str:
        return f"{', '.join(self.place)}, lr {self.rate:g}, seed {self.seed}"


@dataclass(frozen=True)
class Combination:
    """One value of each axis: a method, and what it meets.

    ``tables``: of its config; ``target``: None where there is none; ``rates``: its grid, empty for the config's own rate.
    """

    place: tuple[str, ...]
    tables: Mapping[str, Any]
    target: float | None
    rates: tuple[float, ...]

    @property
    def eval_every(self) -> int:
        """How many steps lie between two evaluations; 0: only the last step has one."""
        return self.cell(None, 0).config.run.eval_every

    def cell(self, rate: float | None, seed: int) -> Cell:
        """Return the run with this rate (None: the config's own) and seed.

        Raises
        ------
        ConfigError : no config.
        """
        tables = laid_over(self.tables, {"seed": seed})
        if rate is not None:
            tables = laid_over(tables, {"optimizer": {"lr": rate}})
        try:
            config = of_tables(tables)
        except ConfigError as error:
            raise ConfigError(f"{', '.join(self.place)}: {error}") from None
        found = float(config.choices["optimizer"].values["lr"])
        folder = Path("cells", *map(_slug, self.place), f"lr={found:g},seed={seed}")
        return Cell(self.place, found, seed, config, folder)


@dataclass(frozen=True)
class Suite:
    """A checked suite. ``axes``: the values of each, by name; ``combinations``: all that are not skipped."""

    text: str
    transport: Literal["simulated", "mpi"]
    seeds: tuple[int, ...]
    tune: tuple[str, ...]
    tune_seeds: int
    search: Literal["grid", "walk"]
    keep: Literal["curves", "runs"]
    highlight: tuple[str, ...]
    axes: Mapping[str, tuple[str, ...]]
    combinations: tuple[Combination, ...]

    def tuning(self, combination: Combination, only: Sequence[float] | None = None) -> list[Cell]:
        """Return the cells that decide the combination's rate, by rate; ``only``: those of these rates."""
        rates: Sequence[float | None] = (combination.rates if only is None else only) or (None,)
        seeds = self.seeds[: self.tune_seeds] if combination.rates else self.seeds
        return [combination.cell(rate, seed) for rate in rates for seed in seeds]

    def others(self, combination: Combination, rates: Sequence[float]) -> list[Cell]:
        """Return the cells of all other seeds, at the rates that were chosen."""
        seeds = self.seeds[self.tune_seeds :] if combination.rates else ()
        return [combination.cell(rate, seed) for rate in rates for seed in seeds]


def load_suite(path: Path, overrides: Sequence[str] = ()) -> Suite:
    """Read a suite; ``overrides``, ``key=value``, are laid over the config of every cell.

    Raises
    ------
    ConfigError : no such file, no TOML, an unknown key, a wrong value, or a combination that is no config; names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse_suite(text, overrides, name=str(path))


def parse_suite(text: str, overrides: Sequence[str] = (), *, name: str = "suite") -> Suite:
    """As :func:`load_suite`, from TOML text; ``name`` stands for the file in messages."""
    tables = read_toml(text, name)
    top = validate(_Top, tables, "")
    for what in ("seeds", "tune"):
        values = getattr(top, what)
        if len(set(values)) < len(values):
            raise ConfigError(f"{what}: {list(values)}: one stands there twice")
    if top.tune_seeds > len(top.seeds):
        raise ConfigError(f"tune_seeds: {top.tune_seeds}, but there are {len(top.seeds)} seeds")
    if not top.axes or not all(top.axes.values()):
        raise ConfigError('axes: needs an axis with a value at least, say [axes.method."1 bit"]')
    for axis, values in top.axes.items():
        _check_axis(axis, values)
    _check_skip(top)
    compared = list(top.axes.values())[-1]
    if unknown := [name for name in top.highlight if name not in compared]:
        raise ConfigError(f"highlight: {unknown[0]!r} is no value of the last axis (valid: {', '.join(compared)})")
    if overrides:
        overrides = [*top.overrides, *overrides]
        text = tomli_w.dumps({**tables, "overrides": overrides})
    combinations = tuple(_combinations(top, nested(overrides or top.overrides)))
    if not combinations:
        raise ConfigError("skip: nothing is left to run")
    suite = Suite(
        text=text, transport=top.transport, seeds=top.seeds, tune=top.tune, tune_seeds=top.tune_seeds,
        search=top.search, keep=top.keep, highlight=top.highlight or tuple(compared)[:MOST_HIGHLIGHTED],
        axes={axis: tuple(values) for axis, values in top.axes.items()}, combinations=combinations,
    )  # fmt: skip
    for combination in combinations:
        if len(set(combination.rates)) < len(combination.rates):
            raise ConfigError(f"rates: {list(combination.rates)}: one stands there twice")
        for cell in suite.tuning(combination):
            if cell.config.workers is None:
                raise ConfigError("base.workers: missing; a sweep needs to know how many there are (workers = 8)")
        if combination.target is None and (wanted := [figure for figure in top.tune if figure.endswith("_to_target")]):
            raise ConfigError(f"tune: {wanted[0]!r} needs a target; {', '.join(combination.place)} has none")
    return suite


def _check_axis(axis: str, values: Mapping[str, Any]) -> None:
    if axis in _OWN or not axis.isidentifier():
        raise ConfigError(f"axes.{axis}: an axis is named like a column: letters, digits, _, and not {', '.join(sorted(_OWN))}")
    slugs: dict[str, str] = {}
    for value in values:
        slug = _slug(value)
        other = slugs.setdefault(slug, value)
        if other != value:
            raise ConfigError(f"axes.{axis}: {other!r} and {value!r} are too much alike: both would be the folder {slug!r}")


def _check_skip(top: _Top) -> None:
    for number, one in enumerate(top.skip):
        for axis, value in one.items():
            if axis not in top.axes:
                raise ConfigError(f"skip.{number}.{axis}: no such axis (valid: {', '.join(top.axes)})")
            if value not in top.axes[axis]:
                raise ConfigError(f"skip.{number}.{axis}: no such value {value!r} (valid: {', '.join(top.axes[axis])})")


def _combinations(top: _Top, overrides: Mapping[str, Any]) -> Iterator[Combination]:
    """Yield all that are not skipped; the last axis is the fastest."""
    compared = list(top.axes)[-1]
    for place in itertools.product(*top.axes.values()):
        named = dict(zip(top.axes, place, strict=True))
        if any(all(named[axis] == value for axis, value in one.items()) for one in top.skip):
            continue
        tables: Mapping[str, Any] = top.base
        own = _Own(target=top.target, rates=top.rates)
        for axis, value in named.items():
            layer = dict(top.axes[axis][value])
            if axis == compared and "rates" in layer:
                raise ConfigError(f"axes.{axis}.{value}.rates: {axis} is what is compared, on one grid; set rates for all")
            given = {key: layer.pop(key) for key in _Own.model_fields if key in layer}
            own = own.model_copy(update=dict(validate(_Own, given, f"axes.{axis}.{value}").model_dump(exclude_unset=True)))
            tables = laid_over(tables, layer)
        yield Combination(place, laid_over(tables, overrides), own.target, own.rates)


def _slug(value: str) -> str:
    """Return a value as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9.+=-]+", "_", value).strip("_.") or "_"

"""A run's config: TOML and ``key=value`` overrides -> checked values -> the objects they name.

The only module that reads strings; everything below receives objects. The keys are listed in the README.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import create_model

from gcdl.codes import CODES, DECODERS, GradientCode
from gcdl.compressors import COMPRESSORS, Compressor, ErrorFeedback
from gcdl.config.factories import Given, custom, custom_problem
from gcdl.config.schema import Choice, Section, Table, validate
from gcdl.downlinks import DOWNLINKS, Downlink
from gcdl.errors import ConfigError
from gcdl.optimizers import OPTIMIZERS, SCHEDULES, OptimizerRecipe, Tuned
from gcdl.problems import PROBLEMS, Problem
from gcdl.protocol.replica_check import Replicas
from gcdl.protocol.wait_rules import WAIT_RULES, WaitRule
from gcdl.stragglers import STRAGGLERS, AnyModel, BeforeSending, Fault, FaultName
from gcdl.types import Count, Natural, Nonnegative, Positive, Rate, Seconds, Steps, Stream, rng_for

_DecoderName = Literal[tuple(DECODERS)]  # type: ignore[valid-type]


class Event(Table):
    """An entry of ``stragglers.events``; see :mod:`gcdl.stragglers.faults`."""

    fault: FaultName
    worker: Natural
    step: Natural
    seconds: Seconds = inf


_WHEN = {"at": (Literal["compute", "send"], "compute")}
"""Whether a delay comes before computing or before sending."""
_EVENTS: dict[str, Any] = {"events": (tuple[Event, ...], ())}
_PLACELESS = ("speeds", "sum")
_DELAY = Section("stragglers", {kind: model for kind, model in STRAGGLERS.items() if kind != "sum"}, extra=_WHEN)

SECTIONS = {
    section.name: section
    for section in (
        Section("problem", {**PROBLEMS, "custom": custom_problem}, extra={"shards": (Count | None, None)}),
        Section(
            "code",
            {**CODES, "custom": custom},
            default="uncoded",
            extra={"decoder": (_DecoderName | None, None), "verify": (bool, False)},
        ),
        Section("compressor", {**COMPRESSORS, "custom": custom}, default="identity", extra={"error_feedback": (bool, False)}),
        Section("wait", {**WAIT_RULES, "custom": custom}, default="first_replies"),
        Section(
            "stragglers",
            {**STRAGGLERS, "custom": custom},
            default="none",
            extra={**_WHEN, **_EVENTS},
            parts=("models", _DELAY),
        ),
        Section(
            "optimizer",
            {**OPTIMIZERS, "custom": custom},
            default="sgd",
            extra={"clip_norm": (Nonnegative, 0.0), "schedule": (dict[str, Any], {"kind": "constant"})},
            inner=("schedule", Section("schedule", SCHEDULES, default="constant")),
        ),
        Section("downlink", DOWNLINKS, default="model"),
    )
}


class RunOptions(Table):
    """``[run]``: how, not what."""

    eval_every: Natural = 50
    """Steps between evaluations; 0: only at the end."""
    evaluate: Literal["meanwhile", "between"] = "meanwhile"
    """Over MPI: while the workers compute the next step, or between two steps, while they wait."""
    checkpoint_every: Natural = 100
    """Steps between checkpoints; 0: only at the end."""
    keep: Count = 2
    """Checkpoints kept, the newest ones."""
    spares: Natural = 0
    """Ranks beyond the workers', each to take the place of a lost one. ranks = 1 + workers + spares."""
    replace: Natural = 0
    """How many new processes may be started in the place of lost workers, on the master's host; where there is no spare."""
    restart: Natural = 0
    """``gcdl run``: how often to start again from the last checkpoint when too many workers are lost, or the master is."""
    checksums: bool = False
    """Replies and tasks carry a CRC-32 of their bodies, and are dropped if it is wrong."""
    tensorboard: bool = False
    """Write event files for TensorBoard to the run folder, as the run goes on; needs the extra ``tensorboard``."""
    shared_memory: bool = True
    """Whole models are read in the master's memory by the workers of its host, and sent to the others."""
    threads: Natural = 1
    """Compute threads a rank; 0: what the launcher gives (see gcdl.host.launcher_environment).
    More than one can change a sum's last bit."""
    seconds_per_shard: Seconds = 0.01
    """``gcdl simulate``: virtual seconds that one shard's gradient takes."""
    start_timeout: Positive = 300.0
    """Seconds the workers have to load their data."""
    master_timeout: Positive = 3600.0
    """Seconds of silence after which a worker takes the master for dead."""


class SimulateOptions(Table):
    """``[simulate]``: what a simulation assumes, see :mod:`gcdl.transport.simulated.network`; over MPI nobody looks at it."""

    compute: str = ""
    """A run folder: computing takes the seconds measured there, drawn at random, in place of [run] seconds_per_shard."""
    parameters: Count | None = None
    """d of a timing-only simulation; the problem's own when left out."""
    latency: Nonnegative = 0.0
    """Seconds."""
    bandwidth: Rate = inf
    """Bytes a second of each worker's link."""
    master_bandwidth: Rate = inf
    """Bytes a second of the master's one link, which all share."""
    decode_seconds: Nonnegative = 0.0
    """Seconds the master takes to decode a reply, whatever its size ..."""
    decode_seconds_per_coordinate: Nonnegative = 0.0
    """... and for each of its coordinates."""
    step_seconds: Nonnegative = 0.0
    """Seconds of the optimizer's step."""


RESUMED = ("steps", "run", "wait", "stragglers", "simulate")
"""What may be overridden when a run is resumed."""

_Top = create_model(
    "_Top",
    __base__=Table,
    seed=(Natural, 0),
    workers=(Count | None, None),
    steps=(Steps, 300),
    run=(RunOptions, RunOptions()),
    simulate=(SimulateOptions, SimulateOptions()),
    **{name: (dict[str, Any], {}) for name in SECTIONS},  # type: ignore[call-overload]
)


@dataclass(frozen=True)
class Config:
    """A checked config, as :func:`gcdl.load` reads it.

    Attributes
    ----------
    seed : of everything that is random.
    workers : n; None until :meth:`for_workers` fixes it.
    steps : of the run.
    run, simulate : the tables of these names.
    choices : the tables that have a ``kind``, by name.
    """

    seed: int
    workers: int | None
    steps: int
    run: RunOptions
    simulate: SimulateOptions
    choices: Mapping[str, Choice | Given]

    def for_workers(self, n: int) -> Config:
        """Return the config with n fixed, and with what follows from other keys: k, and whether scales are agreed on.

        Raises
        ------
        ConfigError : the config itself says another n.
        """
        if self.workers is not None and self.workers != n:
            count = "ranks - 1 - spares" if self.run.spares else "ranks - 1"
            raise ConfigError(
                f"workers: the config says {self.workers}, but there are {n} ({count}); "
                f"start {1 + self.workers + self.run.spares} ranks, or leave workers out"
            )
        problem = self.choices["problem"]
        if problem.values["shards"] is None:
            problem = replace(problem, values={**problem.values, "shards": n})
        compressor = self.choices["compressor"]
        if compressor.values.get("agreed", False) is None:
            counts = DOWNLINKS[self.choices["downlink"].kind].votes  # type: ignore[attr-defined]
            compressor = replace(compressor, values={**compressor.values, "agreed": counts})
        optimizer = self.choices["optimizer"]
        schedule = optimizer.values.get("schedule")
        if schedule is not None and schedule.values.get("steps") == 0:  # stated once: a run resumed for more steps keeps it
            schedule = replace(schedule, values={**schedule.values, "steps": self.steps})
            optimizer = replace(optimizer, values={**optimizer.values, "schedule": schedule})
        settled = {"problem": problem, "compressor": compressor, "optimizer": optimizer}
        return replace(self, workers=n, choices={**self.choices, **settled})

    def toml(self) -> str:
        """Return the resolved config, every value stated."""
        top: dict[str, Any] = {"seed": self.seed, "workers": self.workers, "steps": self.steps}
        tables = {name: choice.table() for name, choice in self.choices.items()}
        options = {"run": self.run.model_dump(), "simulate": self.simulate.model_dump(exclude_none=True)}
        return tomli_w.dumps({**{k: v for k, v in top.items() if v is not None}, **tables, **options})


@dataclass(frozen=True)
class Experiment:
    """The objects that a config with fixed n describes; made when first asked for, and no data is loaded by that.

    Attributes
    ----------
    config : the config, n and all that follows from it fixed.
    n : the number of workers.
    problem, code, compressor, wait, stragglers, optimizer, downlink : what the tables of these names describe.
    """

    config: Config
    n: int

    @classmethod
    def of(cls, config: Config, n: int) -> Experiment:
        """Fix n and check that every object can be built.

        The code and the wait rule, which a worker has no use for, are made when first asked for (:meth:`check`).

        Raises
        ------
        ConfigError : it says another n, or values that no object can be built from.
        """
        experiment = cls(config.for_workers(n), n)
        _ = experiment.problem, experiment.compressor, experiment.stragglers, experiment.faults, experiment.optimizer
        _ = experiment.downlink
        return experiment

    def check(self) -> Experiment:
        """Build the code, the wait rule and what verifies replies too; raises as :meth:`of`."""
        _ = self.wait, self.replicas
        return self

    @cached_property
    def code(self) -> GradientCode:
        """The gradient code."""
        choice = self._choice("code")
        code: GradientCode = choice.build(n=self.n, k=self.problem.k, rng=rng_for(self.config.seed, Stream.CODE))
        decoder = choice.values["decoder"]
        return code if decoder is None else replace(code, decoder=DECODERS[decoder])

    @cached_property
    def replicas(self) -> Replicas | None:
        """What compares the replies of replicas; None where that is not asked for."""
        if not self._choice("code").values["verify"]:
            return None
        try:
            return Replicas(self.code.B, self.compressor)
        except ConfigError as error:
            raise ConfigError(f"code.{error}") from None

    @property
    def decoder_name(self) -> str:
        """The name of the code's decoder."""
        return next(name for name, decoder in DECODERS.items() if decoder is self.code.decoder)

    @cached_property
    def problem(self) -> Problem:
        """The problem."""
        choice = self._choice("problem")
        problem: Problem = choice.build(k=choice.values["shards"], seed=self.config.seed)
        return problem

    @cached_property
    def compressor(self) -> Compressor:
        """The compressor, error feedback around it if it is on."""
        choice = self._choice("compressor")
        compressor: Compressor = choice.build()
        return ErrorFeedback(compressor) if choice.values["error_feedback"] else compressor

    @cached_property
    def downlink(self) -> Downlink:
        """The downlink."""
        downlink: Downlink = self._choice("downlink").build()
        return downlink

    @cached_property
    def wait(self) -> WaitRule:
        """The wait rule."""
        rule: WaitRule = self._choice("wait").build(code=self.code)
        return rule

    @cached_property
    def stragglers(self) -> AnyModel:
        """The delay model."""
        return _delays(self._choice("stragglers"), self.n)

    @cached_property
    def faults(self) -> tuple[Fault, ...]:
        """The injected faults."""
        faults = tuple(Fault(**event.model_dump()) for event in self._choice("stragglers").values["events"])
        for place, fault in enumerate(faults):
            if fault.worker >= self.n:
                raise ConfigError(
                    f"stragglers.events.{place}.worker: there is no worker {fault.worker}; worker ids are 0 to {self.n - 1}"
                )
        return faults

    @cached_property
    def optimizer(self) -> OptimizerRecipe:
        """The optimizer's recipe."""
        choice = self._choice("optimizer")
        recipe: OptimizerRecipe = choice.build()
        schedule, clip_norm = choice.values.get("schedule"), choice.values.get("clip_norm", 0.0)
        if schedule is None or (clip_norm == 0.0 and schedule.kind == "constant" and not schedule.values["warmup"]):
            return recipe
        if not hasattr(recipe, "torch_optimizer"):
            raise ConfigError("optimizer: clip_norm and schedule need a recipe with a method torch_optimizer")
        return Tuned(recipe, schedule.build(), clip_norm)

    def _choice(self, name: str) -> Choice | Given:
        return self.config.choices[name]


def _delays(choice: Choice | Given, n: int) -> AnyModel:
    """Build a delay model; of a sum, each part."""
    late = choice.values["at"] == "send"
    if late and choice.kind in _PLACELESS:
        raise ConfigError(f"{choice.name}.at: {choice.kind!r} has no delay of its own to place before sending")
    parts = tuple(_delays(part, n) for part in choice.values.get("models", ()))
    model: AnyModel = choice.build(n=n, models=parts)
    return BeforeSending(model) if late else model


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file, apply overrides, check everything that can be checked without data.

    Raises
    ------
    ConfigError : no such file, no TOML, an unknown key, a wrong value.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse(text, overrides, name=str(path))


def parse_resumed(text: str, overrides: Sequence[str]) -> Config:
    """As :func:`parse`, for a run that is resumed: only what does not change the problem may be overridden.

    Raises
    ------
    ConfigError : an override of another key.
    """
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key.partition(".")[0] not in RESUMED:
            raise ConfigError(f"{key}: cannot change when a run is resumed; {', '.join(RESUMED)} can")
    return parse(text, overrides, name="config.toml")


def parse(text: str, overrides: Sequence[str] = (), *, name: str = "config") -> Config:
    """As :func:`load`, from TOML text; ``name`` stands for the file in messages."""
    return of_tables(laid_over(read_toml(text, name), nested(overrides)))


def read_toml(text: str, name: str) -> dict[str, Any]:
    """Return the tables of TOML text.

    Raises
    ------
    ConfigError : it is no TOML; the message begins with ``name``.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so is a number of 5,000 digits
        raise ConfigError(f"{name}: not TOML: {error}") from None


def of_tables(given: Mapping[str, Any]) -> Config:
    """Check a config's tables.

    Raises
    ------
    ConfigError : an unknown key, a wrong value.
    """
    tables = dict(given)
    options = {name: tables.pop(name, {}) for name in ("run", "simulate")}
    top = validate(_Top, tables, "")
    choices = {}
    for section in SECTIONS.values():
        choices[section.name] = section.check(getattr(top, section.name))
    for name, table in options.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{name}: {table!r}: must be a table")
    run, simulate = validate(RunOptions, options["run"], "run"), validate(SimulateOptions, options["simulate"], "simulate")
    return Config(top.seed, top.workers, top.steps, run, simulate, choices)


def nested(overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``a.b=1`` as {"a": {"b": 1}}. Values are TOML; what is not is a string."""
    found: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts) or len(parts) > 2:
            raise ConfigError(f"{override!r}: an override looks like key=value or table.key=value")
        if "\n" in value or not _encodable(override):
            raise ConfigError(f"{override!r}: an override is one line of text")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except (ValueError, RecursionError):
            parsed = value.strip()
        if len(parts) == 1:
            found[parts[0]] = parsed
            continue
        table = found.setdefault(parts[0], {})
        if not isinstance(table, dict):
            raise ConfigError(f"{override!r}: {parts[0]} was given a value before")
        table[parts[1]] = parsed
    return found


def _encodable(text: str) -> bool:
    """Say whether text can be written to a file: a command line may hold bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def laid_over(tables: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's tables with others laid over them. Another ``kind`` drops the keys that only the old kind has."""
    laid = dict(tables)
    for name, given in overrides.items():
        old = laid.get(name)
        if not isinstance(given, dict) or not isinstance(old, dict):
            laid[name] = given
            continue
        section = SECTIONS.get(name)
        if section is not None and "kind" in given:
            outdated = set(section.keys(str(old.get("kind", section.default)))) - set(section.keys(str(given["kind"])))
            old = {key: value for key, value in old.items() if key not in outdated}
        laid[name] = {**old, **given}
    return laid

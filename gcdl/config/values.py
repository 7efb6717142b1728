"""The values of a config: which tables and keys there are, and :class:`Config`, which holds them checked.

The keys are listed in configs/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Annotated, Any, Literal

import tomli_w
from annotated_types import Le

from gcdl.codes import CODES, DECODERS
from gcdl.compressors import COMPRESSORS
from gcdl.config.compressor_wrappers import WRAPPERS
from gcdl.config.factories import Given, custom, custom_problem
from gcdl.config.local_optimizer import LOCAL_OPTIMIZER
from gcdl.config.schema import Choice, Section, Table
from gcdl.downlinks import DOWNLINKS
from gcdl.errors import ConfigError
from gcdl.optimizers import OPTIMIZERS, SCHEDULES
from gcdl.problems import PROBLEMS
from gcdl.protocol.wait_rules import WAIT_RULES
from gcdl.stragglers import STRAGGLERS, FaultName
from gcdl.types import Count, Natural, Nonnegative, Positive, Rate, Seconds

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
_DELAY = Section("stragglers", {kind: model for kind, model in STRAGGLERS.items() if kind != "sum"}, extra=_WHEN)

SECTIONS = {
    section.name: section
    for section in (
        Section(
            "problem",
            {**PROBLEMS, "custom": custom_problem},
            extra={
                "shards": (Count | None, None),
                "local_steps": (Count | Literal["auto"] | None, None),
                "local_optimizer": (dict[str, Any] | None, None),
            },
            inner=("local_optimizer", LOCAL_OPTIMIZER),
        ),
        Section(
            "code",
            {**CODES, "custom": custom},
            default="uncoded",
            extra={"decoder": (_DecoderName | None, None), "verify": (bool, False), "nearest": (bool | None, None)},
        ),
        Section("compressor", {**COMPRESSORS, "custom": custom}, default="identity", extra=WRAPPERS),
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
    """``[run]``: how a run is carried out; its model does not depend on it."""

    eval_every: Natural = 50
    """Steps between evaluations; 0: only at the end."""
    evaluate: Literal["meanwhile", "between", "workers"] = "meanwhile"
    """How to evaluate over MPI: while the workers compute the next step; between two steps, while they wait; or by the workers.

    ``workers``: each evaluates its share of the test set before it computes the next step's gradient."""
    checkpoint_every: Natural = 100
    """Steps between checkpoints; 0: only at the end."""
    keep: Count = 2
    """Checkpoints kept, the newest ones."""
    masters: Natural = 1
    """Ranks that share the master's work: each holds a slice of the model; 0: as many as pay.

    ranks = masters + workers + spares.
    """
    spares: Natural = 0
    """Extra ranks, each ready to take a lost worker's place."""
    replace: Natural = 0
    """How many new processes may be started for lost workers when no spare is left; on the master's host."""
    on_loss: Literal["recode", "stop"] = "recode"
    """When more workers are lost than the wait rule tolerates: the others get their shards, or the run ends."""
    rebalance: Nonnegative = 0.0
    """How many times slower than the typical worker one must have been for 30 steps to get fewer shards; 0: never."""
    restart: Natural = 0
    """``gcdl run``: how often to start again from the last checkpoint when too many workers are lost, or the master is."""
    checksums: bool = False
    """Replies and tasks carry a CRC-32 of their bodies, and are dropped if it is wrong."""
    tensorboard: bool = False
    """Write event files for TensorBoard to the run folder, as the run goes on; needs the extra ``tensorboard``."""
    shared_memory: bool = True
    """Whole models are read in the master's memory by the workers of its host, and sent to the others."""
    threads: Annotated[Natural, Le(4096)] = 1
    """Compute threads a rank; 0: what the launcher gives (see gcdl.host.launcher_environment).
    More than one can change a sum's last bit."""
    master_threads: Annotated[Natural, Le(4096)] = 0
    """Threads that decode at a master, over MPI; 0: one for each core that it has to itself. They change no bit."""
    seconds_per_shard: Seconds = 0.01
    """``gcdl simulate``: virtual seconds that one shard's gradient takes."""
    start_timeout: Positive = 300.0
    """Seconds the workers have to load their data."""
    master_timeout: Positive = 3600.0
    """Seconds of silence after which a worker takes the master for dead."""

    def ranks(self, workers: int) -> int:
        """Return the number of ranks of a run with so many workers; with ``masters`` = 0: the least that there may be."""
        return max(1, self.masters) + workers + self.spares


class SimulateOptions(Table):
    """``[simulate]``: what a simulation assumes, see :mod:`gcdl.transport.simulated.network`. Not used over MPI."""

    compute: str = ""
    """A run folder: computing takes the seconds measured there, drawn at random, in place of [run] seconds_per_shard."""
    parameters: Count | None = None
    """d of a timing-only simulation; the problem's when left out."""
    latency: Nonnegative = 0.0
    """Seconds."""
    bandwidth: Rate = inf
    """Bytes a second of each worker's link."""
    master_bandwidth: Rate = inf
    """Bytes a second of the master's link, which all workers share."""
    decode_seconds: Nonnegative = 0.0
    """Seconds the master takes to decode a reply, whatever its size ..."""
    decode_seconds_per_coordinate: Nonnegative = 0.0
    """... and for each of its coordinates."""
    step_seconds: Nonnegative = 0.0
    """Seconds of the optimizer's step."""


MOST_WORKERS = 65_535
"""A message's header has 16 bits for the worker's id."""
RESUMED = ("steps", "run", "wait", "stragglers", "simulate")
"""What may be another when a run is resumed, whoever computes."""
RECODED = ("workers", "code", "compressor", "downlink")
"""What may be another too: how gradients are coded for the workers that there are, and how they travel."""


@dataclass(frozen=True, repr=False)
class Config:
    """A checked config, as :func:`gcdl.load` reads it.

    Attributes
    ----------
    seed : of everything that is random.
    workers : n; None until :meth:`for_workers` fixes it.
    steps : steps of the run.
    run, simulate : the tables of these names.
    choices : the other tables, by name: each has a ``kind``.

    Raises
    ------
    ConfigError : there are more workers than a message can name, or options of [run] that exclude each other.
    """

    seed: int
    workers: int | None
    steps: int
    run: RunOptions
    simulate: SimulateOptions
    choices: Mapping[str, Choice | Given]

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers > MOST_WORKERS:
            raise ConfigError(
                f"workers: {self.workers:,}: {MOST_WORKERS:,} at most, because a message's header has 16 bits for the worker"
            )
        if self.run.rebalance and not self.run.rebalance > 1.0:
            raise ConfigError(
                f"run.rebalance: {self.run.rebalance:g}: must be above 1, times slower than a typical worker; or 0: off"
            )
        if self.run.masters != 1 and self.run.replace:
            raise ConfigError("run.replace: new processes reach one master only; use run.spares with several masters")

    def __repr__(self) -> str:
        workers = "any number of workers" if self.workers is None else f"{self.workers} workers"
        kinds = ", ".join(f"{name} {choice.kind}" for name, choice in self.choices.items())
        stated = ", ".join(f"{key}={value}" for key, value in self.run.model_dump(exclude_unset=True).items())
        return f"Config: {self.steps} steps, {workers}, seed {self.seed}\n  {kinds}\n  run: {stated or 'as usual'}"

    def with_values(self, table: str, **values: Any) -> Config:
        """Return the config with other values for some keys of a table that has a kind."""
        choice = self.choices[table]
        return replace(self, choices={**self.choices, table: replace(choice, values={**choice.values, **values})})

    def for_workers(self, n: int) -> Config:
        """Return the config with n fixed, and with it the values that depend on n or on other tables.

        These are k, whether scales are agreed on, and how many steps a schedule has.

        Raises
        ------
        ConfigError : the config itself says another n.
        """
        if self.workers is not None and self.workers != n:
            count = ("ranks - 1" if self.run.masters == 1 else "ranks - masters") + (" - spares" if self.run.spares else "")
            raise ConfigError(
                f"workers: the config says {self.workers}, but there are {n} ({count}); "
                f"start {self.run.ranks(self.workers)} ranks, or leave workers out"
            )
        problem = self.choices["problem"]
        if problem.values["shards"] is None:
            problem = replace(problem, values={**problem.values, "shards": n})
        compressor = self.choices["compressor"]
        if compressor.values.get("agreed", False) is None:
            # Workers with rotations of their own have no votes to count.
            shared = compressor.values.get("rotation") != "own"
            counts = shared and DOWNLINKS[self.choices["downlink"].kind].votes  # type: ignore[attr-defined]
            compressor = replace(compressor, values={**compressor.values, "agreed": counts})
        optimizer = self.choices["optimizer"]
        schedule = optimizer.values.get("schedule")
        if schedule is not None and schedule.values.get("steps") == 0:  # stated once: a run resumed for more steps keeps it
            schedule = replace(schedule, values={**schedule.values, "steps": self.steps})
            optimizer = replace(optimizer, values={**optimizer.values, "schedule": schedule})
        settled = {"problem": problem, "compressor": compressor, "optimizer": optimizer}
        return replace(self, workers=n, choices={**self.choices, **settled})

    @property
    def leaves_local_steps_open(self) -> bool:
        """Whether the run chooses the number of local steps (``problem.local_steps = "auto"``)."""
        return self.choices["problem"].values.get("local_steps") == "auto"

    def with_local_steps(self, steps: int) -> Config:
        """Return the config with this number of local steps."""
        return self.with_values("problem", local_steps=steps)

    def toml(self) -> str:
        """Return the resolved config, every value stated."""
        top: dict[str, Any] = {"seed": self.seed, "workers": self.workers, "steps": self.steps}
        tables = {name: choice.table() for name, choice in self.choices.items()}
        options = {"run": self.run.model_dump(), "simulate": self.simulate.model_dump(exclude_none=True)}
        return tomli_w.dumps({**{k: v for k, v in top.items() if v is not None}, **tables, **options})

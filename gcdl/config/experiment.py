"""From a checked config to the objects that it names: :class:`Experiment`. Everything below it receives objects, no strings."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gcdl.codes import DECODERS, GradientCode
from gcdl.codes.nearest import nearest_code
from gcdl.compressors import Compressor
from gcdl.config.compressor_wrappers import wrapped
from gcdl.config.factories import Given
from gcdl.config.made_objects import check_made
from gcdl.config.schema import Choice
from gcdl.config.values import Config
from gcdl.downlinks import Downlink
from gcdl.errors import ConfigError
from gcdl.host.memory import physical_bytes
from gcdl.optimizers import OptimizerRecipe, Tuned
from gcdl.problems import Problem
from gcdl.protocol.replica_check import Replicas
from gcdl.protocol.wait_rules import WaitRule
from gcdl.stragglers import AnyModel, BeforeSending, Fault
from gcdl.types import Stream, rng_for

_PLACELESS = ("speeds", "sum")
"""Delay models that have no delay of their own."""


@dataclass(frozen=True)
class Experiment:
    """The objects that a config describes for n workers. Each is made when it is first asked for; that loads no data.

    Attributes
    ----------
    config : the config, for n workers.
    n : the number of workers.
    problem, code, compressor, wait, stragglers, optimizer, downlink : what the tables of these names describe.
    """

    config: Config
    n: int

    @classmethod
    def of(cls, config: Config, n: int) -> Experiment:
        """Return the experiment of a config for n workers, with everything built that a worker needs.

        A worker needs neither the code nor the wait rule; :meth:`check` builds them.

        Raises
        ------
        ConfigError : the config says another n, or has values that no object can be built from.
        """
        experiment = cls(config.for_workers(n), n)
        _ = experiment.problem, experiment.compressor, experiment.stragglers, experiment.faults, experiment.optimizer
        _ = experiment.downlink
        return experiment

    def check(self) -> Experiment:
        """Build the rest too: the code, the wait rule, the check of replicas. Raises as :meth:`of`."""
        _ = self.wait, self.replicas
        self._check_shaped_optimizer()
        return self

    def _check_shaped_optimizer(self) -> None:
        """Refuse an optimizer that is given parameters in their shapes where somebody steps a slice, or a replica.

        Raises
        ------
        ConfigError : there are several masters, or another downlink.
        """
        if not getattr(self.optimizer, "shaped", False):
            return
        masters, downlink = self.config.run.masters, self.config.choices["downlink"].kind
        if masters != 1 or downlink != "model":
            raise ConfigError(
                "optimizer: shaped: takes one master and downlink.kind = 'model'; here are run.masters = "
                f"{masters} and downlink.kind = {downlink!r}"
            )

    def with_masters(self, masters: int) -> Experiment:
        """Return the same experiment with another number of masters. What was built stays: nothing of it depends on them."""
        other = copy(self)
        run = self.config.run.model_copy(update={"masters": masters})
        object.__setattr__(other, "config", replace(self.config, run=run))
        return other

    @cached_property
    def code(self) -> GradientCode:
        """The gradient code."""
        nbytes, memory = 8 * self.n * self.problem.k, physical_bytes()
        if nbytes > memory:
            raise ConfigError(
                f"workers: {self.n} workers and {self.problem.k} shards: the code's matrix takes {nbytes / 1e9:,.0f} GB; "
                f"this machine has {memory / 1e9:,.0f} GB"
            )
        if self._choice("code").values["nearest"]:
            return self.code_for(self.n)
        code: GradientCode = self._build("code", n=self.n, k=self.problem.k, rng=rng_for(self.config.seed, Stream.CODE))
        return self._with_stated_decoder(code)

    def code_for(self, n: int, *key: int) -> GradientCode:
        """Return the family's code for n workers and this experiment's shards, or the nearest; drawn under (seed, key)."""
        choice, seed = self._choice("code"), self.config.seed
        options = dict(choice.values)
        if isinstance(options.get("p"), tuple) and len(options["p"]) != n:  # of workers who are not those that there are now
            options["p"] = float(np.mean(options["p"]))

        def build(n: int, k: int, options: Mapping[str, Any]) -> GradientCode:
            changed = replace(choice, values={**choice.values, **options})
            code: GradientCode = built(changed, n=n, k=k, rng=rng_for(seed, Stream.CODE, *key))
            return code

        return self._with_stated_decoder(nearest_code(build, n, self.problem.k, options))

    def _with_stated_decoder(self, code: GradientCode) -> GradientCode:
        decoder = self._choice("code").values["decoder"]
        return code if decoder is None else replace(code, decoder=DECODERS[decoder])

    @cached_property
    def replicas(self) -> Replicas | None:
        """The check of replicas' replies; None if ``code.verify`` is off."""
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
        values = self._choice("problem").values
        steps = 1 if self.config.leaves_local_steps_open else values.get("local_steps")  # until the run has chosen
        local: dict[str, Any] = {"local_steps": steps, "local_optimizer": values.get("local_optimizer")}
        if local["local_optimizer"] is not None:
            local["local_optimizer"] = local["local_optimizer"].build().torch_optimizer
        stated = {name: value for name, value in local.items() if value is not None}
        problem: Problem = self._build("problem", k=values["shards"], seed=self.config.seed, **stated)
        return problem

    @cached_property
    def compressor(self) -> Compressor:
        """The compressor, and what goes around it."""
        return wrapped(self._build("compressor"), self._choice("compressor").values)

    @cached_property
    def downlink(self) -> Downlink:
        """The downlink."""
        downlink: Downlink = self._build("downlink")
        return downlink

    @cached_property
    def wait(self) -> WaitRule:
        """The wait rule."""
        return self.wait_for(self.code)

    def wait_for(self, code: GradientCode, **changes: Any) -> WaitRule:
        """Return the wait rule for a code, with other values for some of its keys."""
        choice = self._choice("wait")
        rule: WaitRule = built(replace(choice, values={**choice.values, **changes}) if changes else choice, code=code)
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
        recipe: OptimizerRecipe = self._build("optimizer")
        schedule, clip_norm = choice.values.get("schedule"), choice.values.get("clip_norm", 0.0)
        if schedule is None or (clip_norm == 0.0 and schedule.kind == "constant" and not schedule.values["warmup"]):
            return recipe
        if not hasattr(recipe, "torch_optimizer"):
            raise ConfigError("optimizer: clip_norm and schedule need a recipe with a method torch_optimizer")
        return Tuned(recipe, schedule.build(), clip_norm)

    def _choice(self, name: str) -> Choice | Given:
        return self.config.choices[name]

    def _build(self, name: str, **context: Any) -> Any:
        return built(self._choice(name), **context)


def built(choice: Choice | Given, **context: Any) -> Any:
    """Build what a table describes; an object that the user made is checked."""
    made = choice.build(**context)
    if choice.kind == "custom":
        check_made(choice.name, choice, made, context)
    return made


def _delays(choice: Choice | Given, n: int) -> AnyModel:
    """Build a delay model: of a sum, each part first."""
    late = choice.values["at"] == "send"
    if late and choice.kind in _PLACELESS:
        raise ConfigError(f"{choice.name}.at: {choice.kind!r} has no delay of its own to place before sending")
    parts = tuple(_delays(part, n) for part in choice.values.get("models", ()))
    model: AnyModel = built(choice, n=n, models=parts)
    return BeforeSending(model) if late else model

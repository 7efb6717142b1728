"""A problem of which only the sizes are known: all that a simulation needs in which only the clock runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gcdl.codes import GradientCode
from gcdl.config import SECTIONS, Config, Experiment
from gcdl.config.factories import Given
from gcdl.config.schema import Choice
from gcdl.types import Layout


@dataclass(frozen=True)
class LocalSteps:
    """How many steps a worker takes by itself."""

    steps: int


@dataclass(frozen=True)
class StandIn:
    """A model's layout, k shards, and local steps."""

    k: int
    shape: Layout
    local: LocalSteps

    def layout(self) -> Layout:
        """Return the model's tensors."""
        return self.shape


@dataclass(frozen=True)
class ProblemSizes:
    """What a simulation needs to know of a problem: the model's layout, and local steps."""

    layout: Layout
    local_steps: int
    _codes: dict[str, GradientCode] = field(default_factory=dict, repr=False, compare=False)
    """Those that were built: some take seconds to find."""

    def experiment(self, config: Config) -> Experiment:
        """Return the experiment of a config, for its number of workers, with the problem left out.

        Raises
        ------
        ConfigError : an object can't be built from the config's values, or not with these others.
        """
        assert config.workers is not None
        n = config.workers
        config = config.for_workers(n)
        values: Mapping[str, Any] = {"shards": config.choices["problem"].values["shards"]}
        problem = Given("problem", lambda k: StandIn(k, self.layout, LocalSteps(self.local_steps)), values, kind="stand-in")
        choices: dict[str, Choice | Given] = {**config.choices, "problem": problem}
        if made_by_a_script(choices["optimizer"]):
            choices["optimizer"] = SECTIONS["optimizer"].check({})  # only its state's size would matter
        code = choices["code"]
        key = repr((n, config.seed, values["shards"], code.kind, sorted(code.values.items())))
        if key in self._codes:
            known = self._codes[key]
            choices["code"] = Given("code", lambda: known, code.values, kind=code.kind)
        experiment = Experiment.of(replace(config, choices=choices), n).check()
        self._codes[key] = experiment.code
        return experiment


def made_by_a_script(choice: Choice | Given) -> bool:
    """Whether a table stands for an object that only a script has."""
    return choice.kind == "custom" and choice.values.get("factory") == ""


def one_tensor(d: int) -> Layout:
    """Return the layout of a model of d parameters of which no more is known."""
    return Layout(("parameters",), ((d,),))

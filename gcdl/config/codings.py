"""Codes that take over while a run goes on, from what its config says of the code and the wait rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gcdl.codes import GradientCode
from gcdl.config.experiment import Experiment
from gcdl.errors import ConfigError
from gcdl.protocol.coding import Coding, among, code_of, matrix_of, spread
from gcdl.protocol.recoding import RecodeOnLoss, Recoder
from gcdl.protocol.replica_check import Replicas
from gcdl.protocol.wait_rules import WaitRule


@dataclass(frozen=True)
class Codings:
    """Makes the codes that may follow the one that an experiment starts with."""

    experiment: Experiment

    def recoder(self) -> Recoder | None:
        """Return what decides when another code takes over; None: the code stays (``run.on_loss = "stop"``)."""
        return RecodeOnLoss(self.among) if self.experiment.config.run.on_loss == "recode" else None

    def among(self, workers: Sequence[int], number: int) -> Coding:
        """Return the code ``number``: of the config's family, or the nearest to it, in which these workers have a row."""
        experiment = self.experiment
        compact = experiment.code_for(len(workers), number)
        code, places = spread(compact, workers, experiment.code.shifts)
        return self._coding(number, code, among(self._wait_for(compact), places), _named(experiment, compact))

    def of_record(self, recorded: Mapping[str, Any], wait: WaitRule) -> Coding:
        """Return a code that a line of ``steps.jsonl`` describes, with a wait rule for a replay.

        Raises
        ------
        ValueError : it describes none.
        """
        experiment = self.experiment
        B = matrix_of(recorded, experiment.n, experiment.problem.k)
        code = code_of(B, experiment.code.decoder, int(recorded["stragglers"]))
        return self._coding(int(recorded["number"]), code, wait, str(recorded["code"]))

    def _wait_for(self, code: GradientCode) -> WaitRule:
        """Return the wait rule for a code for fewer workers, or more.

        A number of replies that the config states (``wait.count``) becomes smaller where so many can't come any more.
        """
        experiment = self.experiment
        count = experiment.config.choices["wait"].values.get("count")
        if count is None:
            return experiment.wait_for(code)
        missing = min(experiment.n - count, code.stragglers)
        return experiment.wait_for(code, count=min(count, max(1, code.n - missing)))

    def _coding(self, number: int, code: GradientCode, wait: WaitRule, name: str) -> Coding:
        replicas = None
        if self.experiment.replicas is not None:
            with suppress(ConfigError):  # no two of these workers send the same
                replicas = Replicas(code.B, self.experiment.compressor)
        return Coding(number, code, wait, replicas, name)


def _named(experiment: Experiment, code: GradientCode) -> str:
    """Say in words what a code is."""
    kind = experiment.config.choices["code"].kind
    return f"{kind}, {code.n} workers, stragglers = {code.stragglers}"

"""Codes that take over while a run goes on, from what its config says of the code and the wait rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from gcdl.codes import GradientCode
from gcdl.codes.construction.assignment import weighted
from gcdl.codes.unequal import unequal_assignment, unequal_repetition
from gcdl.config.experiment import Experiment
from gcdl.errors import ConfigError
from gcdl.protocol.coding import Coding, among, code_of, matrix_of, spread
from gcdl.protocol.rebalancing import Rebalance
from gcdl.protocol.recoding import NeverRecode, RecodeOnLoss, Recoder
from gcdl.protocol.replica_check import Replicas
from gcdl.protocol.wait_rules import WaitRule
from gcdl.types import Stream, Weights, rng_for


@dataclass(frozen=True)
class Codings:
    """Makes the codes that may follow the one that an experiment starts with."""

    experiment: Experiment

    def recoder(self, say: Callable[[str], None] = lambda line: None, hosts: Sequence[str] | None = None) -> Recoder:
        """Return what decides when another code takes over.

        ``say`` takes a line for the user; ``hosts``: of the workers, for these lines.
        """
        options, n = self.experiment.config.run, self.experiment.n
        on_loss = RecodeOnLoss(self.among) if options.on_loss == "recode" else NeverRecode()
        if not options.rebalance:
            return on_loss
        names = [f"worker {worker}" + ("" if hosts is None else f" on {hosts[worker]}") for worker in range(n)]
        return Rebalance(n, options.rebalance, self.balanced, on_loss=on_loss, say=say, names=names)

    def among(self, workers: Sequence[int], number: int) -> Coding:
        """Return the code ``number``: of the config's family, or the nearest to it, in which these workers have a row."""
        experiment = self.experiment
        compact = experiment.code_for(len(workers), number)
        code, places = spread(compact, workers, experiment.code.shifts)
        return self._coding(number, code, among(self._wait_for(compact), places), _named(experiment, compact))

    def balanced(self, workers: Sequence[int], seconds: Weights, number: int) -> Coding:
        """Return the code ``number``, in which workers of these ``seconds`` a shard have loads to match.

        A code that approximates has as many holders a shard as the config's. An exact one becomes fractional repetition.

        Raises
        ------
        ParameterError : there are too few shards for all to have one.
        """
        experiment = self.experiment
        values, k = experiment.config.choices["code"].values, experiment.problem.k
        m, stragglers = len(workers), min(experiment.code.stragglers, len(workers) - 1)
        if values.get("replication") is None:
            rows = unequal_repetition(seconds, k, stragglers).B
        else:
            rng = rng_for(experiment.config.seed, Stream.CODE, number)
            support = unequal_assignment(seconds, k, min(values["replication"], m), rng)
            p = values.get("p")
            rows = weighted(support, stragglers / m if p is None else float(np.mean(p)))
        B = np.zeros((experiment.n, k))
        B[list(workers)] = rows
        decoder = experiment.code.decoder
        wait = among(self._wait_for(code_of(rows, decoder, stragglers)), list(workers))
        name = f"{experiment.config.choices['code'].kind} by speed, {m} workers, stragglers = {stragglers}"
        return self._coding(number, code_of(B, decoder, stragglers), wait, name)

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

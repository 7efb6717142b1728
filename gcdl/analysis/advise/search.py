"""Tries configs: each is simulated with the run's delays, links and costs. The best codes meet each compressor and downlink."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from gcdl.analysis.advise.candidates import DEADLINES, ONE_BIT, Candidate, bits_and_downlinks, codes_and_waits, more_masters
from gcdl.analysis.advise.costs import Costs
from gcdl.analysis.advise.links import Links
from gcdl.analysis.advise.observed import Observed
from gcdl.analysis.advise.prediction import Prediction, predict
from gcdl.analysis.advise.stand_in import one_tensor
from gcdl.analysis.advise.trace import Trace, trace_of
from gcdl.config import Experiment
from gcdl.errors import ConfigError
from gcdl.transport.simulated.network import Network
from gcdl.types import IntVector, Stream, rng_for

_STEPS = (100, 300)
"""Simulated steps of a candidate: as many as the run has, within these."""
_KEPT = 4
"""Codes with their wait rules that go on to the second round."""
_LARGE = one_tensor(4096)
"""A model of which scales are a small part."""
EXACT_ERROR = 1e-6
"""Decoding error, a shard, below which a step's gradient is whole."""


@dataclass(frozen=True)
class Tried:
    """A candidate, and what is predicted of it. ``exact``: no shard's gradient is left out in any step."""

    candidate: Candidate
    experiment: Experiment
    prediction: Prediction

    @property
    def exact(self) -> bool:
        """Whether the gradient is whole in every step."""
        return self.prediction.decoding_error <= EXACT_ERROR * math.sqrt(self.experiment.code.k)

    @property
    def one_bit(self) -> bool:
        """Whether replies take about a bit a coordinate."""
        return takes_one_bit(self.experiment)

    @property
    def lossy_downlink(self) -> bool:
        """Whether workers get a model that lags behind the exact one: replicas that step no optimizer of their own."""
        return self.experiment.downlink.replicas and not self.experiment.downlink.steps_replicas

    @property
    def masters(self) -> int:
        """How many masters share the model."""
        return max(1, self.candidate.config.run.masters)

    @property
    def bytes(self) -> float:
        """Of a step, both ways."""
        return self.prediction.up + self.prediction.down


def takes_one_bit(experiment: Experiment) -> bool:
    """Whether an experiment's replies take about a bit a coordinate, and not a whole number."""
    return bool(experiment.compressor.codec(_LARGE).payload_bytes <= _LARGE.size / 2)


@dataclass
class Laboratory:
    """Simulates candidates.

    Attributes
    ----------
    observed : the run.
    trace, links, costs : its delays, links, and seconds of compressing and of the master's work.
    own : its config.
    """

    observed: Observed
    trace: Trace
    links: Links
    costs: Costs
    own: Candidate = field(init=False)
    steps: int = field(init=False)

    def __post_init__(self) -> None:
        self.own = Candidate(self.observed.config)
        self.steps = int(np.clip(len(self.trace.delay), *_STEPS))

    @classmethod
    def of(cls, observed: Observed, links: Links) -> Laboratory:
        """Return the laboratory of a run."""
        trace, calibrated = trace_of(observed, links, rng_for(observed.config.seed, Stream.COMPUTE))
        return cls(observed, trace, calibrated, Costs.of(observed))

    @property
    def network(self) -> Network:
        """The run's links, with its own master's work."""
        return self._network(self.observed.experiment, np.arange(self.observed.n))

    def simulate(self, candidate: Candidate, *, trace: Trace | None = None, network: Network | None = None) -> Prediction:
        """Predict a candidate with the run's number of workers.

        Raises
        ------
        ConfigError : it can't be.
        """
        return self.attempt(candidate, trace=trace, network=network).prediction

    def attempt(
        self,
        candidate: Candidate,
        *,
        trace: Trace | None = None,
        network: Network | None = None,
        columns: IntVector | None = None,
    ) -> Tried:
        """As :meth:`simulate`; ``columns``: the workers of the run whose delays the candidate's workers have."""
        everyone = np.arange(self.observed.n) if columns is None else columns
        experiment = self.observed.sizes.experiment(candidate.config)
        chosen = (self.trace if trace is None else trace).of_workers(everyone)
        links = self._network(experiment, everyone) if network is None else network
        prediction = predict(experiment, self.observed.sizes.layout, chosen, links, self._encode(experiment), self.steps)
        return Tried(candidate, experiment, prediction)

    def _network(self, experiment: Experiment, columns: IntVector) -> Network:
        """Return the links, and what decoding takes with an experiment's compressor."""
        links = self.links.of_workers(columns)
        if self.observed.simulated:
            return links
        _, decode = self.costs.of_compressor(experiment.compressor)
        each = decode / self.observed.sizes.layout.size
        return replace(links, decode_seconds=0.0, decode_seconds_per_coordinate=each, step_seconds=self.costs.update)

    def _encode(self, experiment: Experiment) -> float:
        """Return what a worker does beside computing: it encodes, and steps its own copy of the model if it has one."""
        encode, decode = self.costs.of_compressor(experiment.compressor)
        if self.observed.simulated or not experiment.downlink.replicas:
            return encode
        replies = experiment.n - experiment.code.stragglers if experiment.downlink.steps_replicas else 1
        return encode + replies * decode + (self.costs.update if experiment.downlink.steps_replicas else 0.0)


Progress = Callable[[int, int], None]
"""Is told how many candidates have been tried, of how many."""


def search(lab: Laboratory, until: float, progress: Progress) -> tuple[list[Tried], bool]:
    """Try candidates until ``time.monotonic()`` is ``until``; return them, and whether there was time for all."""
    replies = np.nan_to_num(lab.observed.reply, nan=np.inf)
    quantiles = {q: float(np.quantile(replies, q, method="lower")) for q in DEADLINES}
    finite = {q: seconds if np.isfinite(seconds) else float(lab.observed.waited.max()) for q, seconds in quantiles.items()}
    first = list(codes_and_waits(lab.own, finite))
    tried, done = _try(lab, first, until - 0.5 * (until - time.monotonic()), progress)
    exact = sorted((one for one in tried if one.exact), key=lambda one: one.prediction.seconds)
    plain = [one for one in exact if one.candidate.kind("code") == "uncoded"][:1]
    best = _different([*plain, *exact])[:_KEPT]
    if not best:
        return tried, done
    run = lab.observed.experiment
    one_bit = lab.own.tables["compressor"] if takes_one_bit(run) else {"kind": ONE_BIT}
    one_bit.pop("agreed", None)
    second = [candidate for one in best for candidate in bits_and_downlinks(one.candidate, one_bit)]
    more, all_of_them = _try(lab, second, until, progress, len(first))
    masters = run.n if lab.observed.simulated else len(set(lab.observed.hosts))
    fastest = [
        min(those, key=lambda one: one.prediction.seconds) for those in _by_compressor([one for one in more if one.exact])
    ]
    third = [candidate for one in fastest for candidate in more_masters(one.candidate, masters)]
    shared, rest = _try(lab, third, until, progress, len(first) + len(second))
    return _once([*tried, *more, *shared]), done and all_of_them and rest


def other_sizes(lab: Laboratory, found: Candidate) -> list[Tried]:
    """Predict a config with fewer workers, the fastest ones of the run, and with more, whose delays are drawn from the run's.

    The shards stay, and with them the samples of a step; with more workers than shards there are more of them, each smaller.
    """
    n, trace = lab.observed.n, lab.trace
    total = trace.delay.mean(axis=0) + trace.seconds_per_shard.mean(axis=0)
    order = np.argsort(total, kind="stable")
    tried = []
    for other in sorted({max(1, n // 2), n - 1, 2 * n} - {n, 0}):
        columns = np.sort(order[:other]) if other < n else np.arange(other) % n
        shards = int(lab.observed.config.choices["problem"].values["shards"])
        k = max(shards, other)
        scaled = Trace(trace.seconds_per_shard * shards / k, trace.delay, trace.unseen)
        of_size = found.with_changes(workers=other, problem={"shards": k})
        plain = of_size.with_changes(code={"kind": "uncoded"}, wait={"kind": "first_replies"})
        coded = of_size if found.kind("code") != "uncoded" else plain
        here = []
        for candidate in (coded, plain):
            with suppress(ConfigError):
                here.append(lab.attempt(candidate, trace=scaled, columns=columns))
        tried += sorted(here, key=lambda one: one.prediction.seconds)[:1]
    return tried


def _try(
    lab: Laboratory, candidates: Iterable[Candidate], until: float, progress: Progress, before: int = 0
) -> tuple[list[Tried], bool]:
    """Try all candidates that can be, while there is time."""
    tried: list[Tried] = []
    listed = list(candidates)
    for number, candidate in enumerate(listed):
        if time.monotonic() > until:
            return tried, False
        progress(before + number, before + len(listed))
        try:
            tried.append(lab.attempt(candidate))
        except ConfigError:
            continue  # there is no such code for these sizes, or these tables don't go together
    return tried, True


def _by_compressor(tried: Iterable[Tried]) -> list[list[Tried]]:
    """Return those with replies of one bit, and the others, where there are any."""
    parts: tuple[list[Tried], list[Tried]] = ([], [])
    for one in tried:
        parts[one.one_bit].append(one)
    return [part for part in parts if part]


def _different(tried: Iterable[Tried]) -> list[Tried]:
    """Return one of those with the same code."""
    return list({(one.candidate.kind("code"), one.candidate.stragglers): one for one in reversed(list(tried))}.values())[::-1]


def _once(tried: Iterable[Tried]) -> list[Tried]:
    """Return each config once."""
    return list({one.candidate.resolved: one for one in tried}.values())

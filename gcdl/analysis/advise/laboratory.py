"""A place to try configs: the clock of a simulation, with the delays, links and costs of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from gcdl.analysis.advise.candidates import Candidate
from gcdl.analysis.advise.costs import Costs
from gcdl.analysis.advise.links import Links, links_of
from gcdl.analysis.advise.observed import Observed
from gcdl.analysis.advise.prediction import Prediction, predict
from gcdl.analysis.advise.stand_in import one_tensor
from gcdl.analysis.advise.trace import Trace, trace_of
from gcdl.config import Config, Experiment
from gcdl.transport.simulated.network import Network
from gcdl.types import IntVector, Stream, rng_for

_STEPS = (100, 300)
"""Simulated steps of a candidate: as many as the run has, within these."""
_LARGE = one_tensor(4096)
"""A model of which scales are a small part."""
_EXACT_ERROR = 1e-6
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
        return self.prediction.decoding_error <= _EXACT_ERROR * math.sqrt(self.experiment.code.k)

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
    wanted : the config that is asked about: the run's own, or the one that the run was a pilot of.
    """

    observed: Observed
    trace: Trace
    links: Links
    costs: Costs
    wanted: Candidate
    own: Candidate = field(init=False)
    steps: int = field(init=False)

    def __post_init__(self) -> None:
        self.own = Candidate(self.observed.config)
        self.steps = int(np.clip(len(self.trace.delay), *_STEPS))

    @classmethod
    def of(cls, observed: Observed, wanted: Config | None = None) -> Laboratory:
        """Return the laboratory of a run. ``wanted``: the config that is asked about, if that is not the run's.

        Raises
        ------
        DataError : the run's manifest is damaged.
        """
        costs = Costs.of(observed)
        rng = rng_for(observed.config.seed, Stream.COMPUTE)
        trace, calibrated = trace_of(observed, links_of(observed), costs, rng)
        asked = observed.config if wanted is None else wanted.for_workers(observed.n)
        return cls(observed, trace, calibrated, costs, Candidate(asked))

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
        steps: int | None = None,
    ) -> Tried:
        """As :meth:`simulate`.

        ``columns``: the workers of the run whose delays the candidate's workers have; ``steps``: to simulate.
        """
        everyone = np.arange(self.observed.n) if columns is None else columns
        experiment = self.observed.sizes.experiment(candidate.config)
        chosen = (self.trace if trace is None else trace).of_workers(everyone)
        links = self._network(experiment, everyone) if network is None else network
        layout, computing = self.observed.sizes.layout, self.costs.computing
        encode = self._encode(experiment)
        prediction = predict(experiment, layout, chosen, links, encode, computing, steps or self.steps)
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

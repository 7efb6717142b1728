"""Where the time of a run went: the seconds that a step would have been shorter without one thing after the other.

The run's own steps are simulated; then without stragglers, then with an uplink that takes no time, then with such a downlink.
What is left is computing, encoding and the master's work. The differences add up to the simulated step; what the measured one
has beyond is called *rest*. All that was not a step (start-up, evaluation, checkpoints, the end) is the job's seconds
without the steps'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gcdl.analysis.advise.laboratory import Laboratory
from gcdl.analysis.advise.observed import Observed
from gcdl.analysis.advise.prediction import Prediction
from gcdl.transport.simulated.network import Network, Sizes
from gcdl.types import IntVector, Weights


@dataclass(frozen=True)
class Part:
    """Of a step, on average: its key, what it is called, and its seconds."""

    key: str
    name: str
    seconds: float


@dataclass(frozen=True)
class TimeShares:
    """Where the time went.

    Attributes
    ----------
    parts : of a step; their seconds add up to ``step_seconds``.
    step_seconds : measured, mean.
    steps : of the run.
    outside_seconds : of the whole job, that were no step; None: unknown, or virtual.
    startup_seconds : of these, until the first step could begin; None: unknown.
    """

    parts: list[Part]
    step_seconds: float
    steps: int
    outside_seconds: float | None
    startup_seconds: float | None


def time_shares(observed: Observed, lab: Laboratory, own: Prediction) -> TimeShares:
    """Return where a run's time went; ``own``: its config as predicted."""
    trace = lab.trace.without_stragglers()
    even = lab.simulate(lab.own, trace=trace)
    no_up = lab.simulate(lab.own, trace=trace, network=_Instant.of(lab.network, up=True, down=False))
    no_link = lab.simulate(lab.own, trace=trace, network=_Instant.of(lab.network, up=True, down=True))
    typical = lab.trace.least_delay
    master = float(np.mean(observed.decoding + observed.updating))
    measured = float(observed.seconds.mean())
    found = {
        "straggling": max(0.0, own.seconds - even.seconds),
        "uplink": max(0.0, even.seconds - no_up.seconds),
        "downlink": max(0.0, no_up.seconds - no_link.seconds),
        "master": master,
        "computing": max(0.0, no_link.seconds - master - typical),
    }
    # If the prediction is off, its parts keep their proportions.
    scale = min(1.0, measured / max(sum(found.values()), 1e-300))
    seconds = {key: scale * value for key, value in found.items()}
    seconds["rest"] = max(0.0, measured - sum(seconds.values()))
    history = observed.history
    summary = history.summary or {}
    wall, spent = (None if observed.simulated else _number(summary, key) for key in ("wall_seconds", "seconds"))
    outside = None if wall is None or spent is None else max(0.0, wall - spent)
    startup = None if observed.simulated else _number(observed.manifest, "startup_seconds")
    steps = int(_number(summary, "steps") or len(history.steps))
    return TimeShares([Part(key, name, seconds[key]) for key, name in _NAMES.items()], measured, steps, outside, startup)


def _number(table: Mapping[str, Any], key: str) -> float | None:
    value = table.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


_NAMES = {
    "computing": "computing and encoding",
    "straggling": "waiting for stragglers",
    "uplink": "link up",
    "downlink": "link down",
    "master": "master: decoding, step",
    "rest": "rest (latencies, not explained)",
}


@dataclass(frozen=True, eq=False)
class _Instant(Network):
    """Links that take no time in one direction or both."""

    links: Network = field(kw_only=True)
    up: bool = field(kw_only=True)
    down: bool = field(kw_only=True)

    @classmethod
    def of(cls, links: Network, *, up: bool, down: bool) -> _Instant:
        master = {name: getattr(links, name) for name in ("decode_seconds", "decode_seconds_per_coordinate", "step_seconds")}
        return cls(latency=links.latency, master_bandwidth=links.master_bandwidth, **master, links=links, up=up, down=down)

    def transfer(self, together: IntVector, largest: IntVector, to: IntVector) -> Weights:
        """As the links, or at once."""
        return np.zeros(len(to)) if self.down else self.links.transfer(together, largest, to)

    def occupation(self, largest: IntVector, to: IntVector) -> Weights:
        """As the links, or none."""
        return np.zeros(len(to)) if self.down else self.links.occupation(largest, to)

    def arrivals(self, sent: Weights, size: Sizes, free: float, workers: IntVector) -> tuple[Weights, Weights]:
        """As the links, or at once."""
        return (sent, sent) if self.up else self.links.arrivals(sent, size, free, workers)

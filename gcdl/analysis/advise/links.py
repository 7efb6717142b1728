"""The links and the master of a run, as the simulator takes them: measured at its start, stated by [simulate], or assumed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gcdl.analysis.advise.observed import Observed
from gcdl.errors import DataError
from gcdl.training.masters_choice import ASSUMED_BANDWIDTH, network_of
from gcdl.training.run_files import MANIFEST
from gcdl.transport.simulated.hosts import HostsNetwork
from gcdl.transport.simulated.network import Network
from gcdl.types import IntVector

_MEMORY_LATENCY = 1e-4
_MEMORY_BANDWIDTH = 2e9
"""Seconds, and bytes a second, of a message within a host where nobody has measured it."""
_ASSUMED_LATENCY = 2e-4


@dataclass(frozen=True)
class Links:
    """What lies between master and workers.

    Attributes
    ----------
    network : for the simulator.
    source : where it is from: "measured", "simulated", "one host" or "assumed".
    latency, bandwidth : seconds one way, and bytes a second, to other hosts; within the host where there is one only.
    """

    network: Network
    source: str
    latency: float
    bandwidth: float

    def of_workers(self, columns: IntVector) -> Network:
        """Return the network of a run with these workers of the run observed."""
        if isinstance(self.network, HostsNetwork):
            return replace(self.network, hosts=self.network.hosts[columns])
        return self.network

    def times_as_fast(self, factor: float) -> Links:
        """Return links with this many times the bandwidth."""
        rates = ("bandwidth", "master_bandwidth", "memory_bandwidth")
        faster = {name: factor * getattr(self.network, name) for name in rates if hasattr(self.network, name)}
        return replace(self, network=replace(self.network, **faster), bandwidth=factor * self.bandwidth)


def links_of(observed: Observed) -> Links:
    """Return a run's links; the master's work is not in them yet."""
    if observed.simulated:
        network = network_of(observed.experiment)
        return Links(network, "simulated", network.latency, min(network.bandwidth, network.master_bandwidth))
    hosts = observed.host_numbers
    near, far = _measured(observed.manifest, observed.hosts[0])
    memory = near or (_MEMORY_LATENCY, _MEMORY_BANDWIDTH)
    if not hosts.any():
        latency, bandwidth = memory
        source = "measured" if near else "one host"
    else:
        latency, bandwidth = far or (_ASSUMED_LATENCY, ASSUMED_BANDWIDTH)
        source = "measured" if far else "assumed"
    network = HostsNetwork(
        latency=latency,
        bandwidth=bandwidth,
        master_bandwidth=bandwidth,
        hosts=hosts,
        memory_latency=memory[0],
        memory_bandwidth=memory[1],
    )
    return Links(network, source, latency, bandwidth)


def _measured(manifest: dict[str, Any], master: str) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Return latency one way and bandwidth, within the master's host and to the others; None: not measured."""
    links = manifest.get("links")
    try:
        rows = [(link["host"], float(link["seconds"]), float(link["bytes_per_second"])) for link in links or []]
    except (TypeError, ValueError, LookupError):
        raise DataError(f"{MANIFEST}: links: {links!r} is not what a run measures") from None
    found = []
    for here in (True, False):
        chosen = [(seconds, rate) for host, seconds, rate in rows if (host == master) == here]
        found.append(
            (float(np.median([s for s, _ in chosen])) / 2.0, float(np.median([r for _, r in chosen]))) if chosen else None
        )
    return found[0], found[1]

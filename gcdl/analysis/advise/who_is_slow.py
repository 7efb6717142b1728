"""Who is slow: a worker in nearly every step, a whole host, workers in bursts, everyone now and then, or nobody.

What a worker takes is its computing and its delay, not the links: a slow link makes nobody a straggler. A worker is *slow* in a
step if that was more than 1.5 times the run's median. If its reply was not used, it is slow if the master had waited that long
without it; if it had not, nothing is known. A worker is slow *persistently* if it is in three quarters of the steps that
something is known of. A host is, if all of its workers are, and if not all hosts are. *Bursts*: slow steps of a worker follow
each other at least twice as often as they would by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np

from gcdl.analysis.advise.observed import Observed
from gcdl.analysis.advise.trace import Trace
from gcdl.types import Mask, Matrix

_SLOW = 1.5
_PERSISTENT = 0.75
_RARE = 0.01
"""Share of slow replies below which nobody is slow."""
_CLUSTERED = 2.0
_SEEN_LATE = 0.9
"""Share of the steps in which a worker's reply was not used, though fewer are left out, that makes it a persistent one."""
_NAMED = 4


@dataclass(frozen=True)
class Slowness:
    """Who is slow.

    Attributes
    ----------
    kind : "persistent", "host", "bursts", "everyone" or "nobody".
    workers, hosts : who, where it is somebody.
    share : of the replies that were slow, of those that something is known of.
    factor : how many times as long as the median a slow reply took, in the median.
    evidence : a sentence for each finding.
    """

    kind: str
    workers: list[int]
    hosts: list[str]
    share: float
    factor: float
    evidence: list[str]


def who_is_slow(observed: Observed, trace: Trace) -> Slowness:
    """Look at the seconds that a run's workers took, and at whose replies were used."""
    took = trace.took
    typical = float(np.median(took[np.isfinite(observed.reply)]))
    slow = took > _SLOW * typical
    known = ~observed.lost & (np.isfinite(observed.reply) | slow)
    share = float(slow[known].mean()) if known.any() else 0.0
    factor = float(np.median(took[slow & known]) / typical) if (slow & known).any() else 1.0
    by_worker = _share(slow, known)
    unused = _never_used(observed)
    persistent = [i for i in range(observed.n) if by_worker[i] >= _PERSISTENT or unused[i]]
    names = observed.hosts[1:]
    hosts = _slow_hosts(persistent, names)
    if hosts and len(persistent) > 1:
        told = [_of_host(host, [i for i in persistent if names[i] == host], took, typical) for host in hosts]
        return Slowness("host", persistent, hosts, share, factor, told)
    if persistent and len(persistent) <= observed.n // 2:
        told = [_of_worker(i, observed, took, by_worker[i], typical) for i in persistent[:_NAMED]]
        more = [f"and {len(persistent) - _NAMED} more"] if len(persistent) > _NAMED else []
        return Slowness("persistent", persistent, [], share, factor, told + more)
    if share < _RARE:
        usual = f"{1.0 - share:.0%} of the replies came within {_SLOW:g} times the median, {1e3 * typical:.3g} ms"
        return Slowness("nobody", [], [], share, factor, [usual])
    often = [i for i in np.argsort(-by_worker).tolist() if by_worker[i] > 2.0 * share][:_NAMED]
    length, chance = _run_lengths(slow, share)
    seen = f"{share:.0%} of the replies are slow, {factor:.2g} times the median of {1e3 * typical:.3g} ms"
    if length > _CLUSTERED * chance:
        clustered = f"they follow each other: {length:.1f} steps in a row on average, {chance:.1f} by chance"
        return Slowness("bursts", often, [], share, factor, [seen, clustered])
    least, most = int(by_worker.argmin()), int(by_worker.argmax())
    spread = f"from {by_worker[least]:.0%} (worker {least}) to {by_worker[most]:.0%} (worker {most})"
    return Slowness("everyone", often, [], share, factor, [seen, f"every worker now and then: {spread}"])


def _share(slow: Mask, known: Mask) -> np.ndarray:
    """Return the share of each worker's replies that were slow, (n,)."""
    return np.asarray((slow & known).sum(axis=0) / np.maximum(known.sum(axis=0), 1))


def _never_used(observed: Observed) -> Mask:
    """Return whose replies were left out in nearly every step, though only a few are left out in a step."""
    left_out = np.isnan(observed.reply) & ~observed.lost
    few: bool = left_out.sum(axis=1).mean() <= observed.n / 4
    return np.asarray((left_out.mean(axis=0) >= _SEEN_LATE) & few)


def _slow_hosts(persistent: list[int], names: list[str]) -> list[str]:
    """Return the hosts all of whose workers are persistently slow, two at least, if there are other hosts."""
    found = [host for host in dict.fromkeys(names) if all(i in persistent for i, name in enumerate(names) if name == host)]
    several = [host for host in found if names.count(host) > 1]
    return several if len(found) < len(set(names)) else []


def _of_host(host: str, workers: list[int], took: Matrix, typical: float) -> str:
    times = float(np.median(took[:, workers])) / typical
    ids = ", ".join(map(str, workers))
    return f"host {host}: all its workers ({ids}) take {times:.2g} times the median"


def _of_worker(worker: int, observed: Observed, took: Matrix, share: float, typical: float) -> str:
    seen = np.isfinite(observed.reply[:, worker])
    where = "" if len(set(observed.hosts)) == 1 else f" on {observed.hosts[worker + 1]}"
    median = float(np.median(took[:, worker]))
    if seen.mean() < 1.0 - _SEEN_LATE:
        return f"worker {worker}{where}: not among the replies used in {(~seen).mean():.0%} of the steps"
    computing = float(np.nanmedian(observed.compute[:, worker]) / max(float(np.nanmedian(observed.compute)), 1e-12))
    slower = f"it computes {computing:.2g} times as long"
    why = slower if computing > _SLOW else "it does not compute longer: it sleeps, or its link is slow"
    seconds = f"{median:.3g} s in the median, the others {typical:.3g} s"
    return f"worker {worker}{where}: slow in {share:.0%} of the steps, {seconds}; {why}"


def _run_lengths(slow: Mask, share: float) -> tuple[float, float]:
    """Return the mean length of a worker's slow times, in steps, and what it would be if steps were independent."""
    lengths = [len(list(run)) for column in slow.T.tolist() for late, run in groupby(column) if late]
    return float(np.mean(lengths)) if lengths else 0.0, 1.0 / max(1.0 - share, 1e-9)

"""Tries configs in a laboratory. The best codes with their wait rules then meet each compressor and downlink, and masters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import numpy as np

from gcdl.analysis.advise.candidates import (
    DEADLINES,
    ONE_BIT,
    Candidate,
    bits_and_downlinks,
    codes_and_waits,
    more_masters,
)
from gcdl.analysis.advise.laboratory import Laboratory, Tried, takes_one_bit
from gcdl.analysis.advise.trace import Trace
from gcdl.errors import ConfigError

_SHORTER = 3
"""Times as few steps as usual that all codes and wait rules get at first; the promising ones then get all."""
_NEAR, _MOST_NEAR = 1.4, 16
"""Times as slow as the fastest that is promising, and how many of those are."""
_KEPT = 4
"""Codes with their wait rules that go on to the second round."""

Progress = Callable[[int, int], None]
"""Is told how many candidates have been tried, of how many."""


def search(lab: Laboratory, until: float, progress: Progress) -> tuple[list[Tried], bool]:
    """Try candidates until ``time.monotonic()`` is ``until``; return them, and whether there was time for all."""
    replies = np.nan_to_num(lab.observed.reply, nan=np.inf)
    quantiles = {q: float(np.quantile(replies, q, method="lower")) for q in DEADLINES}
    finite = {q: seconds if np.isfinite(seconds) else float(lab.observed.waited.max()) for q, seconds in quantiles.items()}
    first = list(codes_and_waits(lab.wanted, finite))
    looked_at, done = _try(lab, first, until - 0.6 * (until - time.monotonic()), progress, steps=lab.steps // _SHORTER)
    promising = [one.candidate for one in _promising(looked_at)]
    tried, looked_again = _try(lab, promising, until - 0.4 * (until - time.monotonic()), progress, len(first))
    done = done and looked_again
    exact = sorted((one for one in tried if one.exact), key=lambda one: one.prediction.seconds)
    plain = [one for one in exact if one.candidate.kind("code") == "uncoded"][:1]
    best = _different([*plain, *exact])[:_KEPT]
    if not best:
        return tried, done
    run = lab.observed.experiment
    wanted = lab.observed.sizes.experiment(lab.wanted.config)
    one_bit = lab.wanted.tables["compressor"] if takes_one_bit(wanted) else {"kind": ONE_BIT}
    one_bit.pop("agreed", None)
    second = [candidate for one in best for candidate in bits_and_downlinks(one.candidate, one_bit)]
    more, all_of_them = _try(lab, second, until, progress, len(first) + len(promising))
    masters = run.n if lab.observed.simulated else len(set(lab.observed.hosts))
    fastest = [
        min(those, key=lambda one: one.prediction.seconds) for those in _by_compressor([one for one in more if one.exact])
    ]
    third = [candidate for one in fastest for candidate in more_masters(one.candidate, masters)]
    shared, rest = _try(lab, third, until, progress, len(first) + len(promising) + len(second))
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
    lab: Laboratory,
    candidates: Iterable[Candidate],
    until: float,
    progress: Progress,
    before: int = 0,
    steps: int | None = None,
) -> tuple[list[Tried], bool]:
    """Try all candidates that can be, while there is time; ``before``: how many have been."""
    tried: list[Tried] = []
    listed = list(candidates)
    for number, candidate in enumerate(listed):
        if time.monotonic() > until:
            return tried, False
        progress(before + number, before + len(listed))
        try:
            tried.append(lab.attempt(candidate, steps=steps))
        except ConfigError:
            continue  # there is no such code for these sizes, or these tables don't go together
    return tried, True


def _promising(tried: Iterable[Tried]) -> list[Tried]:
    """Return what is worth more steps: not much slower than the fastest exact one, or the best of its code and wait rule."""
    by_speed = sorted(tried, key=lambda one: one.prediction.seconds)
    exact = [one for one in by_speed if one.exact]
    near = [one for one in exact if one.prediction.seconds <= _NEAR * exact[0].prediction.seconds]
    of_kinds = list({(one.candidate.kind("code"), one.exact): one for one in reversed(by_speed)}.values())
    waits = list({one.candidate.kind("wait"): one for one in reversed(exact)}.values())
    plain = [one for one in exact if one.candidate.kind("code") == "uncoded"]
    lossy = [one for one in by_speed if not one.exact and one.candidate.kind("code") == "uncoded"]
    return list({id(one): one for one in (*plain, *near[:_MOST_NEAR], *of_kinds, *waits, *lossy)}.values())


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

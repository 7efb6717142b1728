"""Tries configs in a laboratory, in rounds, while there is time.

First each compressor and downlink, uncoded. With the best of these each code and wait rule, for few steps, and those that are
promising for all. The best codes then meet the other compressors and downlinks, and last come more masters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace

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
from gcdl.analysis.advise.prices import priced
from gcdl.errors import ConfigError

_SHORTER = 3
"""Times as few steps as usual that all codes and wait rules get at first; the promising ones then get all."""
_NEAR, _MOST_NEAR = 1.4, 16
"""Times as slow as the fastest that is promising, and how many of those are."""
_KEPT = 3
"""Codes with their wait rules that meet the other compressors and downlinks."""

Progress = Callable[[int, int], None]
"""Is told how many candidates have been tried, of how many that are known of."""


@dataclass
class _Rounds:
    """Tries candidates, round after round.

    Attributes
    ----------
    lab : where.
    until : by ``time.monotonic()``, when to stop.
    progress : is told.
    whole : whether there was time for all so far.
    """

    lab: Laboratory
    until: float
    progress: Progress
    whole: bool = True
    _done: int = field(default=0, init=False)

    def play(self, candidates: Iterable[Candidate], share: float, steps: int | None = None) -> list[Tried]:
        """Try all candidates that can be, in this share of the time that is left; ``steps``: to simulate."""
        listed = list(candidates)
        now = time.monotonic()
        until = now + share * (self.until - now)
        tried = []
        for number, candidate in enumerate(listed):
            if time.monotonic() > until:
                self.whole = False
                break
            self.progress(self._done + number, self._done + len(listed))
            with suppress(ConfigError):  # there is no such code for these sizes, or these tables don't go together
                tried.append(self.lab.attempt(candidate, steps=steps))
        self._done += len(listed)
        return tried


def search(lab: Laboratory, until: float, progress: Progress) -> tuple[list[Tried], bool]:
    """Try candidates until ``time.monotonic()`` is ``until``; return them, and whether there was time for all."""
    rounds = _Rounds(lab, until, progress)
    one_bit = _one_bit(lab)
    plain = lab.wanted.with_changes(code={"kind": "uncoded"}, wait={"kind": "first_replies"}, run={"masters": 1})
    lanes = rounds.play(bits_and_downlinks(plain, one_bit), 0.4)
    best_lane = min(lanes, key=priced).candidate if lanes else plain
    looked_at = rounds.play(codes_and_waits(best_lane, _quantiles(lab)), 0.6, lab.steps // _SHORTER)
    tried = rounds.play([one.candidate for one in _promising(looked_at)], 0.6)
    exact = sorted((one for one in tried if one.exact), key=lambda one: one.prediction.seconds)
    others = [_with_lane(one.candidate, lane.candidate) for one in _different(exact)[:_KEPT] for lane in _lanes_worth(lanes)]
    crossed = rounds.play(others, 0.7)
    found = [*lanes, *tried, *crossed]
    most = lab.observed.n if lab.observed.simulated else len(set(lab.observed.hosts))
    fastest = [min(those, key=lambda one: one.prediction.seconds) for those in _by_bits(one for one in found if one.exact)]
    shared = rounds.play([candidate for one in fastest for candidate in more_masters(one.candidate, most)], 1.0)
    return _once([*found, *shared]), rounds.whole


def _one_bit(lab: Laboratory) -> dict[str, object]:
    """Return the table of the compressor that stands for one bit: that of the config asked about, if it has one."""
    asked = lab.observed.sizes.experiment(lab.wanted.config)
    table = dict(lab.wanted.tables["compressor"]) if takes_one_bit(asked) else {"kind": ONE_BIT}
    table.pop("agreed", None)
    return table


def _quantiles(lab: Laboratory) -> dict[float, float]:
    """Return the seconds of a reply at which deadlines are tried; those of a step's wait where too few replies were used."""
    replies = np.nan_to_num(lab.observed.reply, nan=np.inf)
    found = {q: float(np.quantile(replies, q, method="lower")) for q in DEADLINES}
    return {q: seconds if np.isfinite(seconds) else float(lab.observed.waited.max()) for q, seconds in found.items()}


def _lanes_worth(lanes: Iterable[Tried]) -> list[Tried]:
    """Return the fastest of one bit and of float32, and whole models in float32."""
    parts = _by_bits(lanes)
    fastest = [min(part, key=lambda one: one.prediction.seconds) for part in parts]
    plain = [one for part in parts for one in part if not one.one_bit and one.candidate.kind("downlink") == "model"]
    return [*fastest, *plain]


def _with_lane(candidate: Candidate, lane: Candidate) -> Candidate:
    """Return a candidate with the compressor and the downlink of another one."""
    return candidate.with_changes(compressor=lane.changes["compressor"], downlink=lane.changes["downlink"])


def other_sizes(lab: Laboratory, found: Candidate) -> list[Tried]:
    """Predict a config with fewer workers, the fastest ones of the run, and with more, whose delays are drawn from the run's.

    The shards stay, and with them the samples of a step; with more workers than shards there are more of them, each smaller.
    """
    n, trace = lab.observed.n, lab.trace
    total = trace.delay.mean(axis=0) + trace.one_shard.mean(axis=0)
    order = np.argsort(total, kind="stable")
    tried = []
    for other in sorted({max(1, n // 2), n - 1, 2 * n} - {n, 0}):
        columns = np.sort(order[:other]) if other < n else np.arange(other) % n
        shards = int(lab.observed.config.choices["problem"].values["shards"])
        k = max(shards, other)
        scaled = replace(trace, one_shard=trace.one_shard * shards / k)
        of_size = found.with_changes(workers=other, problem={"shards": k})
        plain = of_size.with_changes(code={"kind": "uncoded"}, wait={"kind": "first_replies"})
        coded = of_size if found.kind("code") != "uncoded" else plain
        here = []
        for candidate in (coded, plain):
            with suppress(ConfigError):
                here.append(lab.attempt(candidate, trace=scaled, columns=columns))
        tried += sorted(here, key=lambda one: one.prediction.seconds)[:1]
    return tried


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


def _by_bits(tried: Iterable[Tried]) -> list[list[Tried]]:
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

"""Which of the candidates to take, and why.

The predicted seconds of a step do not tell what a step is worth: see :mod:`gcdl.analysis.advise.prices`.
Only configs whose gradient is whole in every step are recommended, unless the run's own leaves shards out as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite

from gcdl.analysis.advise.candidates import EXACT
from gcdl.analysis.advise.laboratory import Tried
from gcdl.analysis.advise.prices import PRICES, price, priced, quiet
from gcdl.analysis.advise.target_loss import Reached
from gcdl.analysis.advise.time_shares import TimeShares
from gcdl.analysis.advise.who_is_slow import Slowness

_LITTLE = 0.15
"""Share of a step that waiting for stragglers may take where nothing is wrong."""
_WORTH = 1.05
"""Gain below which nothing is changed."""


@dataclass(frozen=True)
class Recommendation:
    """What to do.

    Attributes
    ----------
    best : the config to take.
    keep : whether that is what the run had.
    nothing_wrong : whether stragglers and links cost so little that the plainest config is best.
    reason : a sentence.
    one_bit : what one bit a coordinate gains here: a sentence, and how many times as short a step is; None: not compared.
    one_bit_gain : see ``one_bit``.
    """

    best: Tried
    keep: bool
    nothing_wrong: bool
    reason: str
    one_bit: str | None
    one_bit_gain: float | None


def recommend(tried: Sequence[Tried], own: Tried, shares: TimeShares, slowness: Slowness) -> Recommendation:
    """Choose among the candidates tried; ``own``: the run's config."""
    allowed = [one for one in (*tried, own) if one.exact and quiet(one)]
    if not allowed:  # the run's code leaves shards out, and so does whatever could be tried
        allowed = [one for one in (*tried, own) if one.prediction.decoding_error <= own.prediction.decoding_error]
    best = min(allowed, key=lambda one: (priced(one), price(one)))
    comparable = own.exact and quiet(own)
    if comparable and priced(own) <= _WORTH * priced(best) and price(own) <= price(best):
        best = own
    plain = price(best) == 1.0
    straggling = next(part.seconds for part in shares.parts if part.key == "straggling") / shares.step_seconds
    nothing_wrong = plain and (slowness.kind == "nobody" or (slowness.kind == "everyone" and straggling < _LITTLE))
    gain, sentence = _one_bit(tried, best)
    keep = best.candidate.resolved == own.candidate.resolved
    return Recommendation(best, keep, nothing_wrong, _reason(best, own, keep, nothing_wrong, slowness), sentence, gain)


def worth_training(tried: Sequence[Tried], own: Tried, best: Tried) -> list[Tried]:
    """Return the candidates that may be the soonest at a loss, the likeliest first: each kind of code and of replies once."""
    ordered = sorted(tried, key=priced)
    kinds = {(one.candidate.kind("code"), one.one_bit, one.exact): one for one in reversed(ordered)}
    found = {one.candidate.resolved: one for one in (best, own, *sorted(kinds.values(), key=priced))}
    return list(found.values())


def by_loss(found: Recommendation, reached: Sequence[Reached], own: Tried, target: float) -> Recommendation:
    """Return the recommendation that goes by the seconds to a loss; the same where no candidate reached it."""
    if not reached or not isfinite(reached[0].seconds):
        return replace(found, reason=f"{found.reason}; no candidate reached the training loss {target:g}", nothing_wrong=False)
    first = reached[0]
    keep = first.tried.candidate.resolved == own.candidate.resolved
    mine = next((one.seconds for one in reached if one.tried is own), inf)
    change = "the run's own config is the soonest" if keep else f"{first.seconds:.3g} s to the training loss {target:g}"
    than = f", the run's own config {mine:.3g} s" if isfinite(mine) and not keep else ""
    return replace(found, best=first.tried, keep=keep, nothing_wrong=False, reason=f"{change}{than}")


def _one_bit(tried: Sequence[Tried], best: Tried) -> tuple[float | None, str | None]:
    """Compare the best with one bit to the best with float32, with the same code and wait rule."""
    same = [one for one in tried if _code_of(one) == _code_of(best) and one.masters == best.masters]
    bits = [one.prediction.seconds for one in same if one.one_bit]
    floats = [one.prediction.seconds for one in same if one.candidate.kind("compressor") == EXACT]
    if not bits or not floats:
        return None, None
    gain = min(floats) / min(bits)
    if gain < PRICES["one bit"]:
        return gain, f"one bit gains {gain:.2f} times here: stay with float32"
    more = "" if best.one_bit else ", less than its noise may cost: stay with float32"
    return gain, f"one bit gains {gain:.2f} times here{more}"


def _code_of(one: Tried) -> tuple[str, int, str]:
    return one.candidate.kind("code"), one.candidate.stragglers, one.candidate.kind("wait")


_WHOM = {"persistent": "the slow worker", "host": "the slow host", "bursts": "workers in a burst"}


def _reason(best: Tried, own: Tried, keep: bool, nothing_wrong: bool, slowness: Slowness) -> str:
    if nothing_wrong:
        return "nothing is wrong: no coding"
    here, there = own.prediction.seconds, best.prediction.seconds
    if keep:
        return "the run's own config is as good as any that was tried, or within a few percent of it"
    faster = f"{here:.3g} s a step become {there:.3g} s"
    change = faster if there < 0.995 * here else f"as fast as now ({there:.3g} s a step), and plainer"
    if not own.exact and best.exact:
        change = f"{faster}, and no shard is left out"
    parts = []
    if best.candidate.kind("code") != "uncoded":
        s = best.candidate.stragglers
        who = _WHOM.get(slowness.kind, "stragglers")
        parts.append(f"the master need not wait for {who} ({s} may be missing, and the gradient is whole)")
    elif own.candidate.kind("code") != "uncoded":
        parts.append("redundancy costs more than the stragglers do")
    if best.one_bit and not own.one_bit:
        parts.append("replies of one bit a coordinate save the link")
    if own.one_bit and not best.one_bit:
        parts.append("the link does not need one bit")
    if best.candidate.kind("downlink") != own.candidate.kind("downlink"):
        parts.append("the way down costs less" if best.experiment.downlink.replicas else "whole models go down as fast")
    if best.masters > own.masters:
        parts.append(f"{best.masters} masters share link and decoding")
    return f"{change}: {'; '.join(parts)}" if parts else change

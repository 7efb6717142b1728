"""The rows of the table of what would be: the run as it was, the candidates that no other one beats, other sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gcdl.analysis.advise.advice import Advice
from gcdl.analysis.advise.laboratory import Tried
from gcdl.analysis.advise.prediction import Prediction

_ROWS = 9
"""Candidates shown beside the run's own and those of other sizes."""
_OF_A_CODE = 3
"""Of these, with the same kind of code."""
_SAME = 0.01
"""Difference in seconds, relatively, that is none."""


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes
    ----------
    key : "measured", "run", "no stragglers", "own", "candidate" or "workers".
    name : what it is called.
    seconds : of a step.
    prediction : None: measured.
    tried : of a candidate.
    recommended : whether this is the one to take.
    """

    key: str
    name: str
    seconds: float
    prediction: Prediction | None
    tried: Tried | None = None
    recommended: bool = False


def rows(advice: Advice) -> list[Row]:
    """Return the rows, in the order shown."""
    best = advice.recommendation.best
    run, own, ideal = advice.run.prediction, advice.own.prediction, advice.ideal
    keep = advice.recommendation.keep
    piloted = advice.own is not advice.run
    what = "the pilot" if piloted else "the run"
    found = [
        Row("measured", f"{what}, measured", advice.measured_seconds, None),
        Row("run", f"{what}: {name_of(advice.run)}", run.seconds, run, advice.run, keep and not piloted),
        Row("no stragglers", "the same without stragglers", ideal.seconds, ideal),
    ]
    if piloted:
        found.append(Row("own", f"your config: {name_of(advice.own)}", own.seconds, own, advice.own, keep))
    for one in chosen(advice.tried, best, advice.own):
        name = name_of(one)
        found.append(Row("candidate", name, one.prediction.seconds, one.prediction, one, one is best))
    for one in advice.sizes:
        name = f"{one.candidate.config.workers} workers: {name_of(one)}"
        found.append(Row("workers", name, one.prediction.seconds, one.prediction, one))
    return found


def chosen(tried: Sequence[Tried], best: Tried, own: Tried) -> list[Tried]:
    """Return the candidates worth showing, fastest first: each code's best, then those that none beats; the run's own not."""
    others = [one for one in tried if not _same(one, own)]
    undominated = [one for one in others if not any(beats(other, one) for other in others)]
    by_speed = sorted((one for one in undominated if one.exact), key=lambda one: one.prediction.seconds)
    lossy = sorted((one for one in undominated if not one.exact), key=lambda one: one.prediction.decoding_error)
    kept = [] if _same(best, own) else [best]
    for one in (*_waiting_for_all(others), *lossy[:2], *by_speed):
        alike = sum(one.candidate.kind("code") == other.candidate.kind("code") for other in kept)
        if len(kept) < _ROWS and alike < _OF_A_CODE and not any(_same(one, other) for other in kept):
            kept.append(one)
    return sorted(kept, key=lambda one: (not one.exact, one.prediction.seconds))


def _waiting_for_all(tried: Sequence[Tried]) -> list[Tried]:
    """Return the plainest of all: uncoded, float32, whole models, one master, all replies; nothing where it was not tried."""
    kinds = {"code": "uncoded", "compressor": "identity", "downlink": "model", "wait": "first_replies"}
    plain = [one for one in tried if all(one.candidate.kind(section) == kind for section, kind in kinds.items())]
    return [one for one in plain if one.exact and one.masters == 1][:1]


def _same(one: Tried, other: Tried) -> bool:
    return one.candidate.resolved == other.candidate.resolved


def beats(one: Tried, other: Tried) -> bool:
    """Whether a candidate is as good as another one in everything, and better in something."""
    mine, its = _merits(one), _merits(other)
    return all(a <= b * (1.0 + _SAME) for a, b in zip(mine, its, strict=True)) and any(
        a < b * (1.0 - _SAME) for a, b in zip(mine, its, strict=True)
    )


def _merits(one: Tried) -> tuple[float, ...]:
    """Return what should be small. Bytes don't count: what they cost is in the seconds."""
    p = one.prediction
    noise = p.amplification if one.one_bit else 0.0
    error = 0.0 if one.exact else p.decoding_error
    downlink = float(one.experiment.downlink.replicas) + float(one.lossy_downlink)
    return p.seconds, error, noise, float(one.one_bit), downlink, float(one.masters)


def name_of(tried: Tried) -> str:
    """Return what a candidate is called, in a few words."""
    candidate, one_bit = tried.candidate, tried.one_bit
    config = candidate.config
    kinds = {section: candidate.kind(section) for section in ("code", "wait", "compressor", "downlink")}
    s = candidate.stragglers
    words = [f"{kinds['code'].replace('_repetition', ' rep.')}{f' s={s}' if s else ''}"]
    if kinds["wait"] == "deadline":
        words.append(f"deadline {config.choices['wait'].values['seconds']:g} s")
    elif kinds["wait"] != "first_replies":
        words.append(kinds["wait"])
    if one_bit:
        words.append("1 bit")
    elif kinds["compressor"] != "identity":
        words.append(kinds["compressor"])
    if kinds["downlink"] != "model":
        words.append(kinds["downlink"])
    if config.run.masters > 1:
        words.append(f"{config.run.masters} masters")
    return ", ".join(words)

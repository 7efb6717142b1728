"""What the report of runs shows of the advice: where a step's seconds went, who is slow, and how well configs are predicted.

The search for a better config is left to ``gcdl advise``: it takes longer than a page should.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gcdl.analysis.advise.candidates import Candidate
from gcdl.analysis.advise.laboratory import Laboratory
from gcdl.analysis.advise.observed import Observed, observe
from gcdl.analysis.advise.time_shares import time_shares
from gcdl.analysis.advise.who_is_slow import who_is_slow
from gcdl.errors import ConfigError, DataError

_MOST_WORKERS = 256
"""Beyond, a simulation takes longer than a page should."""


def laboratory_of(path: Path) -> Laboratory | None:
    """Return what explains a run's time; None: the run is too short or too large, or does not say. This takes seconds."""
    try:
        observed = observe(path)
        return Laboratory.of(observed) if observed.n <= _MOST_WORKERS else None
    except (DataError, ConfigError):
        return None


def time_section(lab: Laboratory | None) -> dict[str, Any] | None:
    """Return where a run's time went, JSON-ready; None: there is no laboratory for it.

    ::

        {"parts": [[name, seconds of a step], ...], "measured": seconds of a step, "slow": [sentence, ...]}
    """
    if lab is None:
        return None
    observed = lab.observed
    shares = time_shares(observed, lab, lab.simulate(lab.own))
    return {
        "parts": [[part.name, _digits(part.seconds)] for part in shares.parts],
        "measured": _digits(shares.step_seconds),
        "slow": who_is_slow(observed, lab.trace).evidence,
    }


def predictions(laboratories: Sequence[Laboratory | None]) -> list[dict[str, Any]]:
    """Predict each run from the delays of the first of them that has as many workers and waited for all, or of the first.

    Returns for each run ``measured`` and ``predicted`` seconds of a step, and the place of the run it was predicted ``from``;
    no ``predicted`` where there is none.
    """
    found: list[dict[str, Any]] = []
    for lab in laboratories:
        if lab is None:
            found.append({})
            continue
        like = [
            (i, other) for i, other in enumerate(laboratories) if other is not None and _alike(other.observed, lab.observed)
        ]
        source, best = min(like, key=lambda item: (float(item[1].trace.unseen.mean()), item[0]))
        entry: dict[str, Any] = {"measured": _digits(float(lab.observed.seconds.mean()))}
        with suppress(ConfigError):
            predicted = best.simulate(Candidate(lab.observed.config))
            entry |= {"predicted": _digits(predicted.seconds), "plus_minus": _digits(predicted.plus_minus), "from": source}
        found.append(entry)
    return found


def _alike(one: Observed, other: Observed) -> bool:
    """Whether a run's delays can be those of another one: as many workers, the same model, both simulated or both not."""
    same_model = one.sizes.layout.size == other.sizes.layout.size
    return (one.n, one.simulated) == (other.n, other.simulated) and same_model


def _digits(value: float) -> float:
    return float(f"{value:.4g}")

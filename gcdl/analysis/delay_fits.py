"""Delay models fitted to measured reply times, and how well they fit.

*Shifted exponential*, by maximum likelihood with censoring. Of a worker that was superseded before it answered we only know
that its time is above c, the length of the step. With N times x seen and the others censored: shift = min x (no c below it
counts), mean - shift = (sum (x - shift) + sum (c - shift)) / N. See Lawless, *Statistical Models and Methods for Lifetime
Data*, section 4.1. The formula is exact; ``scipy.stats.expon.fit`` searches for the same numbers with an optimizer where
times are censored.

*Gilbert-Elliott*, by moments. Otsu's threshold (the split of the logarithms with the least variance within the two parts) says
which times are slow; a worker that was not seen was slow. From the states of each worker over the steps: enter and leave are
the observed shares of changes (the maximum likelihood of a chain that is seen), p = enter / (enter + leave), length = 1 /
leave. Neither SciPy nor scikit-learn has either of the two.

*Goodness of fit*: the Kolmogorov-Smirnov distance D between the fitted distribution and the observed one (Kaplan and Meier's
estimate, where times are censored), with the p-value of Kolmogorov's limiting distribution at l = D (sqrt(N) + 0.12 + 0.11 /
sqrt(N)) (Stephens 1970). ``scipy.stats.kstest`` takes no censored times, so the distance is ours, from SciPy's estimate. The
parameters come from the same data, so p is on the high side: a small one refutes the model, a large one proves nothing. Bursts
are whole steps, which makes it more so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gcdl.errors import DataError
from gcdl.types import Mask, Matrix, Weights

_LEAST = 8
"""Times below which there is nothing to fit."""
_POOR = 0.01
"""p-value below which a fit is called poor."""


@dataclass(frozen=True)
class Fit:
    """A fitted delay model.

    Attributes
    ----------
    kind, keys : of the model, as [stragglers] takes them.
    statistic, p_value : how far the times are from the model; None: there are too few to judge.
    size : how many times, or bursts, that is about.
    """

    kind: str
    keys: dict[str, float]
    statistic: float | None
    p_value: float | None
    size: int

    @property
    def poor(self) -> bool:
        """Whether the times refute the model."""
        return self.p_value is not None and self.p_value < _POOR


def shifted_exponential(seen: Weights, censored: Weights) -> Fit:
    """Fit the seconds ``seen``, (N,), and those above which others were ``censored``.

    Raises
    ------
    DataError : fewer than 8 were seen.
    """
    if len(seen) < _LEAST:
        raise DataError(f"{len(seen)} reply times are too few to fit; {_LEAST} at least")
    shift = float(seen.min())
    beyond = np.maximum(censored - shift, 0.0)
    scale = float(((seen - shift).sum() + beyond.sum()) / len(seen))
    if scale <= 0.0:
        return Fit("shifted_exponential", {"shift": shift, "seconds": shift}, None, None, len(seen))
    times, survival = survivors(seen, censored)
    fitted = np.exp(-(times - shift) / scale)
    before = np.concatenate([[1.0], survival[:-1]])
    statistic = float(max(np.abs(fitted - survival).max(), np.abs(fitted - before).max()))
    keys = {"shift": shift, "seconds": shift + scale}
    return Fit("shifted_exponential", keys, statistic, kolmogorov(statistic, len(seen)), len(seen))


def gilbert_elliott(seconds: Matrix) -> Fit | None:
    """Fit the bursts of slow replies; None if the times are not of two kinds, fast and slow, that take turns.

    ``seconds``: (steps, n) reply times; inf where a worker was not seen, NaN where it was lost. In the fit, ``seconds`` is how
    much longer a slow reply takes, on average; inf if no slow one was seen.

    Raises
    ------
    DataError : fewer than 8 were seen.
    """
    seen = np.isfinite(seconds)
    if seen.sum() < _LEAST:
        raise DataError(f"{int(seen.sum())} reply times are too few to fit; {_LEAST} at least")
    slow: Mask = np.isinf(seconds) | (seconds > _otsu(seconds[seen]))
    both = ~np.isnan(seconds[:-1]) & ~np.isnan(seconds[1:])
    now, then = slow[:-1][both], slow[1:][both]
    if not (now & ~then).any() or not (then & ~now).any():
        return None
    enter, leave = float(then[~now].mean()), float((~then[now]).mean())
    late, usual = seconds[slow & seen], seconds[seen & ~slow]
    keys = {
        "p": enter / (enter + leave),
        "length": 1.0 / leave,
        "seconds": float(late.mean() - usual.mean()) if late.size else math.inf,
    }
    lengths = _bursts(slow[:, ~np.isnan(seconds).any(axis=0)])
    if len(lengths) < _LEAST:
        return Fit("bursts", keys, None, None, len(lengths))
    k = np.arange(1, int(lengths.max()) + 1)
    observed = np.searchsorted(np.sort(lengths), k, side="right") / len(lengths)
    statistic = float(np.abs(observed - stats.geom.cdf(k, leave)).max())
    return Fit("bursts", keys, statistic, kolmogorov(statistic, len(lengths)), len(lengths))


def kolmogorov(statistic: float, size: int) -> float:
    """Return the asymptotic probability that ``size`` draws lie at least as far from their distribution."""
    root = math.sqrt(size)
    return float(stats.kstwobign.sf(statistic * (root + 0.12 + 0.11 / root)))


def survivors(seen: Weights, censored: Weights) -> tuple[Weights, Weights]:
    """Return Kaplan and Meier's estimate: the distinct times seen, ascending, and P(time > each)."""
    survival = stats.ecdf(stats.CensoredData(uncensored=seen, right=censored)).sf
    times = np.unique(seen)
    return times, np.asarray(survival.evaluate(times), dtype=np.float64)


def _otsu(seconds: Weights) -> float:
    """Return the time that splits the logarithms into the two parts of least variance within; inf if it explains little."""
    ordered = np.sort(np.log(np.maximum(seconds, 1e-9)))
    count = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)[:-1]
    low, high = sums / count, (ordered.sum() - sums) / (len(ordered) - count)
    between = count * (len(ordered) - count) / len(ordered) ** 2 * (high - low) ** 2
    best = int(between.argmax())
    total = float(ordered.var())
    if total <= 0.0 or between[best] < _EXPLAINED * total:
        return math.inf
    return float(np.exp((ordered[best] + ordered[best + 1]) / 2.0))


_EXPLAINED = 0.8
"""Share of the variance of log seconds that a split must explain to be one (it explains 0.64 of a normal one's)."""


def _bursts(slow: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the lengths, in steps, of the bursts that begin and end within the record."""
    edges = np.diff(slow.astype(np.int8), axis=0)
    found: list[int] = []
    for column in edges.T:
        starts, ends = np.flatnonzero(column == 1), np.flatnonzero(column == -1)
        if starts.size:
            ends = ends[ends > starts[0]]
            found.extend((ends - starts[: len(ends)]).tolist())
    return np.array(found, dtype=np.int64)

"""``gcdl trace``: a run's reply times as a trace that ``stragglers.kind = "trace"`` replays, and models fitted to them.

A reply time is from the beginning of the step until the reply reached the master: computing, injected sleep and travel. A
worker whose reply was not used (superseded before it answered, too late, or lost) has no time in that step. The trace has
``inf`` there. In the fits the time is *censored*: it is only known to be above the length of the step's wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gcdl.analysis.delay_fits import Fit, gilbert_elliott, shifted_exponential
from gcdl.errors import DataError, UsageError
from gcdl.stragglers import write_trace
from gcdl.training.run_files import STEPS
from gcdl.training.run_reader import History, read_run
from gcdl.types import Matrix, Weights


@dataclass(frozen=True)
class Measured:
    """Reply times of a run.

    ``seconds`` : (steps, n); inf: the reply was not used; NaN: the worker was lost.
    ``censored`` : for each inf in ``seconds``, the seconds that the reply took at least.
    """

    seconds: Matrix
    censored: Weights


def measured(history: History) -> Measured:
    """Return a run's reply times.

    Raises
    ------
    DataError : it recorded none.
    """
    if not history.steps:
        raise DataError(f"{history.path / STEPS}: no step was recorded")
    seconds = history.by_worker("reply_seconds")
    # The master waited until the last reply that it used.
    waited = np.nanmax(seconds, axis=1)
    missing = np.isnan(seconds) & ~history.absent()
    seconds[missing] = np.inf
    return Measured(seconds, np.repeat(waited, missing.sum(axis=1)))


def write(path: Path, found: Measured) -> None:
    """Write the trace, .csv or .npz.

    Raises
    ------
    UsageError : another ending, or it cannot be written.
    """
    try:
        write_trace(path, np.where(np.isnan(found.seconds), np.inf, found.seconds))
    except OSError as error:
        raise UsageError(f"--out {path}: cannot be written: {error.strerror or error}") from None


def report(path: Path, out: Path | None) -> str:
    """Read a run, write its trace if asked to, and return what the fits say.

    Raises
    ------
    DataError, UsageError
    """
    history = read_run(path)
    found = measured(history)
    if out is not None:
        write(out, found)
    seen = found.seconds[np.isfinite(found.seconds)]
    lines = [
        f"{len(history.steps)} steps, {history.workers} workers: {seen.size} reply times, mean {seen.mean():.4g} s, "
        f"{found.censored.size} censored (not seen: longer than their step)"
    ]
    times = shifted_exponential(seen, found.censored)
    lines += _told(times)
    bursts = gilbert_elliott(found.seconds)
    if bursts is None:
        lines += ["", "bursts: the times are not of two kinds, fast and slow, that take turns"]
    else:
        lines += _told(bursts)
    if out is None and (times.poor or (bursts is not None and bursts.poor)):
        lines += ["", f"a poor fit: simulate with the times themselves instead: gcdl trace {path} --out trace.csv"]
    if out is not None:
        lines += ["", "replay the times:", "[stragglers]", 'kind = "trace"', f'file = "{out}"']
        lines += ["(they contain the computing: gcdl simulate with run.seconds_per_shard=0)"]
    return "\n".join(lines)


def _told(fit: Fit) -> list[str]:
    """Return a fit as a table of the config, and how good it is."""
    about = "bursts" if fit.kind == "bursts" else "times"
    quality = (
        f"too few {about} to judge the fit by"
        if fit.statistic is None
        else f"Kolmogorov-Smirnov D = {fit.statistic:.4f}, p = {fit.p_value:.3g} ({fit.size} {about}; parameters fitted to "
        "the same data, so p is on the high side)"
    )
    if fit.poor:
        quality = f"poor fit: {quality}"
    return ["", "[stragglers]", f'kind = "{fit.kind}"', *(f"{key} = {value:.6g}" for key, value in fit.keys.items()), quality]

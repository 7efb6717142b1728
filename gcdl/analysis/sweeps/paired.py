"""How far each method of a table is from its best one, and what of that is chance.

A seed decides the data, the start and the stragglers of every method alike. So losses are compared seed by seed: the mean of
the differences over m seeds, and its 95 % interval by Student's t with m - 1 degrees of freedom. If that holds zero, the
two are called a tie. Three seeds make it wide: 2.5 standard deviations of the differences on each side.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

Losses = Mapping[int, float]
"""A method's loss by seed."""


def above_the_best(methods: Mapping[str, Losses]) -> dict[str, str]:
    """Return what to show for each method: "best", or how much higher its loss is, with "tie" where that may be chance.

    The best has the lowest mean of those that have a loss for every seed that any has. "": fewer than two seeds in common.
    """
    seeds = {seed for losses in methods.values() for seed in losses}
    whole = [name for name, losses in methods.items() if losses.keys() == seeds and len(seeds) > 1]
    if not whole:
        return dict.fromkeys(methods, "")
    best = min(whole, key=lambda name: statistics.fmean(methods[name].values()))
    return {name: "best" if name == best else _difference(losses, methods[best]) for name, losses in methods.items()}


def _difference(losses: Losses, best: Losses) -> str:
    differences = [loss - best[seed] for seed, loss in losses.items()]
    if len(differences) < 2:
        return ""
    mean, half = statistics.fmean(differences), half_width(differences)
    return f"{mean:+.2g} +- {half:.2g}" + (": tie" if abs(mean) <= half else "")


def half_width(differences: list[float]) -> float:
    """Return half the width of the 95 % interval around the mean of m >= 2 differences."""
    from scipy import stats  # slow to import

    m = len(differences)
    return float(stats.t.ppf(0.975, m - 1)) * statistics.stdev(differences) / math.sqrt(m)

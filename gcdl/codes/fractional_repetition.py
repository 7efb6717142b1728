"""Fractional repetition: s + 1 workers form a group and hold the same shards.

Tandon, Lei, Dimakis and Karampatziakis, *Gradient Coding*, ICML 2017, section 4.1. Any s stragglers leave one worker in
each group, and one is enough. Where we differ: all replicas of a group that have arrived are averaged, because the average
has the same mean as one of them and less compression noise. Least squares does so by itself; the closed form is
a_i = 1 / (the number of i's group that have arrived).
"""

from __future__ import annotations

import numpy as np

from gcdl.codes.base import GradientCode
from gcdl.errors import ParameterError
from gcdl.types import Mask, Natural, Weights


def fractional_repetition(n: int, k: int, *, stragglers: Natural = 1) -> GradientCode:
    """Return the code in which workers g (s+1) to g (s+1) + s hold the g-th of n / (s+1) runs of shards.

    Raises
    ------
    ParameterError : s + 1 does not divide n, or there are fewer shards than groups.
    """
    if n % (stragglers + 1):
        possible = [s for s in range(n) if n % (s + 1) == 0]
        raise ParameterError(
            f"fractional_repetition: stragglers + 1 = {stragglers + 1} must divide the number of workers, {n}; "
            f"possible values of stragglers: {', '.join(map(str, possible))}"
        )
    groups = n // (stragglers + 1)
    if k < groups:
        raise ParameterError(f"fractional_repetition: {groups} groups need at least {groups} shards, not {k}")
    B = np.zeros((n, k))
    for group, shards in enumerate(np.array_split(np.arange(k), groups)):
        first = group * (stragglers + 1)
        B[first : first + stragglers + 1, shards] = 1.0

    def average(arrived: Mask) -> Weights:
        here = arrived.reshape(groups, stragglers + 1)
        replicas = np.maximum(here.sum(axis=1, keepdims=True), 1)
        return np.asarray(here / replicas, dtype=np.float64).ravel()

    return GradientCode(B, stragglers=stragglers, closed_form=average)

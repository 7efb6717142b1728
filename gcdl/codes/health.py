"""How well a code decodes: decoding error and noise gain over the patterns in which a number of workers is missing.

All patterns are looked at where they are few, else a random sample of them. The means of a sample carry a standard error. Its
worst pattern is a lower bound on the worst there is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from gcdl.codes.base import GradientCode, noise_gain
from gcdl.errors import ParameterError
from gcdl.types import Mask, Weights


@dataclass(frozen=True)
class Survey:
    """Decoding error ||a B - 1||, noise gain ||a|| and amplification (:func:`amplification`) over patterns of missing workers.

    ``patterns`` were looked at; ``exhaustive``: they are all there are, and the standard errors are 0.
    """

    worst_error: float
    mean_error: float
    error_standard_error: float
    worst_gain: float
    mean_gain: float
    gain_standard_error: float
    worst_amplification: float
    patterns: int
    exhaustive: bool


def survey(code: GradientCode, lost: int, rng: np.random.Generator, limit: int = 2000) -> Survey:
    """Return what decoding costs when ``lost`` workers are missing.

    Parameters
    ----------
    code : the code, with its decoder.
    lost : how many of its workers are missing, 0 to n.
    rng : draws patterns when there are more than ``limit``.
    limit : the most patterns that are looked at.

    Raises
    ------
    ParameterError : ``lost`` or ``limit`` is out of range.
    """
    if not 0 <= lost <= code.n:
        raise ParameterError(f"survey: lost = {lost} must be between 0 and n = {code.n}")
    if limit < 1:
        raise ParameterError(f"survey: limit = {limit} must be at least 1")
    exhaustive = math.comb(code.n, lost) <= limit
    masks = patterns(code.n, lost) if exhaustive else sampled_patterns(code.n, lost, rng, limit)
    errors, gains, amplified = [], [], []
    for arrived in masks:
        a = code.decoding_vector(arrived)
        errors.append(code.decoding_error(a))
        gains.append(noise_gain(a))
        amplified.append(amplification(code, a))
    error, gain = np.array(errors), np.array(gains)
    return Survey(
        worst_error=float(error.max()),
        mean_error=float(error.mean()),
        error_standard_error=0.0 if exhaustive else _standard_error(error),
        worst_gain=float(gain.max()),
        mean_gain=float(gain.mean()),
        gain_standard_error=0.0 if exhaustive else _standard_error(gain),
        worst_amplification=max(amplified),
        patterns=error.size,
        exhaustive=exhaustive,
    )


def amplification(code: GradientCode, a: Weights) -> float:
    """Return sqrt(sum_i a_i^2 ||B_i||^2 / k): what decoding does to compression noise, compared with no code at all.

    The noise in a compressed vector is in proportion to the vector, and ||C_i|| to ||B_i|| when the shards' gradients are
    alike in size and independent. So this is the noise in the decoded gradient relative to that of the uncoded scheme that
    waits for all, 1; unlike ||a|| it does not change when a row of B is scaled. Averaging r replicas gives 1 / sqrt(r).
    """
    return float(np.sqrt(np.square(a) @ np.square(code.B).sum(axis=1) / code.k))


def patterns(n: int, lost: int) -> Iterator[Mask]:
    """Yield every arrived set, (n,), of n - lost workers."""
    for missing in itertools.combinations(range(n), lost):
        yield _without(n, missing)


def sampled_patterns(n: int, lost: int, rng: np.random.Generator, count: int) -> Iterator[Mask]:
    """Yield ``count`` arrived sets, (n,), of n - lost workers, drawn independently."""
    for _ in range(count):
        yield _without(n, rng.choice(n, lost, replace=False))


def _without(n: int, missing: Iterable[int]) -> Mask:
    arrived = np.ones(n, dtype=bool)
    arrived[list(missing)] = False
    return arrived


def _standard_error(values: Weights) -> float:
    return float(values.std(ddof=1) / math.sqrt(values.size)) if values.size > 1 else math.inf

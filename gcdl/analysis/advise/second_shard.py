"""What a further shard costs a worker, as a share of the first: a pass has costs that do not grow with its samples.

A run with one shard a worker does not tell. So a gradient of one shard and one of two are computed here, on the run's own data,
where they can be loaded.
"""

from __future__ import annotations

import time

import numpy as np

from gcdl.config import Config, Experiment
from gcdl.errors import GcdlError
from gcdl.problems import Problem
from gcdl.types import aligned_vector

_REPEATS = 5
_ENOUGH_SECONDS = 4.0
"""Of computing, after which there are no more repeats."""


def second_shard(config: Config) -> float | None:
    """Return the share, 0 to 1; None: the problem can't be made here, or its data are not here, or it has one shard only."""
    try:
        problem = Experiment(config, config.workers or 1).problem
        return _measured(problem) if problem.k > 1 else None
    except (GcdlError, OSError):
        return None


def _measured(problem: Problem) -> float:
    samples = problem.load(np.arange(2))
    parameters = problem.initial_parameters()
    into = aligned_vector(problem.layout().size)
    gradients = [problem.gradient(samples, np.arange(count), np.ones(count)) for count in (1, 2)]
    best = [np.inf, np.inf]
    began = time.perf_counter()
    for step in range(_REPEATS):
        for which, gradient in enumerate(gradients):
            start = time.perf_counter()
            for _ in gradient.compute(parameters, step, into):
                pass
            if step or time.perf_counter() - began > _ENOUGH_SECONDS:  # the first pass of each makes its caches
                best[which] = min(best[which], time.perf_counter() - start)
        if time.perf_counter() - began > _ENOUGH_SECONDS:
            break
    return float(np.clip((best[1] - best[0]) / best[0], 0.0, 1.0))

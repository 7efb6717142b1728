"""The code that a family has for n workers and k shards, or the nearest that can be made, whatever n and k are.

A run that is re-coded for the workers that are left keeps its k shards, and most families exist for some n and k only. So, with
as many stragglers s as were asked for, but at most n - 1:

1. the family itself, if it has a code for n and k;
2. the family over n runs of consecutive shards, where k > n: all shards of a run have the entry of the run (cyclic codes);
3. fractional repetition with groups of unequal size, s + 1 workers at least: exact for any s missing workers, and there is
   always one. (Tandon et al., ICML 2017, section 4.1, have equal groups.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from gcdl.codes.base import GradientCode
from gcdl.errors import ConfigError


def nearest_code(
    build: Callable[[int, int, Mapping[str, Any]], GradientCode], n: int, k: int, options: Mapping[str, Any]
) -> GradientCode:
    """Return the code for n workers and k shards that is nearest to what a family's options ask for.

    Parameters
    ----------
    build : (n, k, options) -> the family's code; raises ConfigError where there is none.
    options : of the family. ``stragglers`` and ``replication`` are changed where n is too small for them, or too large.
    """
    changed = dict(options)
    stragglers = min(options.get("stragglers", 0), n - 1)
    if "stragglers" in options:
        changed["stragglers"] = stragglers
    if options.get("replication") is not None:
        changed["replication"] = min(n, max(options["replication"], -(-n // k)))
    with suppress(ConfigError):
        return build(n, k, changed)
    if k > n:
        with suppress(ConfigError):
            return _in_runs(build(n, n, changed), k)
    return unequal_groups(n, k, stragglers)


def unequal_groups(n: int, k: int, stragglers: int) -> GradientCode:
    """Return fractional repetition with n workers in groups of s + 1 or more, sizes within one, and k shards in equal runs.

    >>> unequal_groups(5, 4, 1).B.tolist()
    [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    """
    groups = min(k, n // (stragglers + 1))
    B = np.zeros((n, k))
    for workers, shards in zip(np.array_split(np.arange(n), groups), np.array_split(np.arange(k), groups), strict=True):
        B[np.ix_(workers, shards)] = 1.0
    return GradientCode(B, stragglers=stragglers)


def _in_runs(code: GradientCode, k: int) -> GradientCode:
    """Return a code whose shards are runs of k shards."""
    run = np.repeat(np.arange(code.k), [len(shards) for shards in np.array_split(np.arange(k), code.k)])
    return GradientCode(code.B[:, run], code.decoder, code.stragglers, code.closed_form)

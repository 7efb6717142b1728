"""Seconds to a training loss: steps that it takes, in a simulation that trains, times the predicted seconds of a step.

A step's seconds don't say what a step is worth: one bit is noise, and a step that leaves shards out goes another way. So the
best candidates are trained, simulated with the run's own delays, from a few seeds. A candidate *has reached* the loss when the
mean training loss of its last steps is at most that.
"""

from __future__ import annotations

import math
import tempfile
import time
import tomllib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tomli_w

from gcdl.analysis.advise.candidates import Candidate
from gcdl.analysis.advise.laboratory import Laboratory, Tried
from gcdl.config import parse
from gcdl.errors import NonFiniteLoss
from gcdl.stragglers import write_trace
from gcdl.training.roles.simulation import simulated_run
from gcdl.training.starting_point import StartingPoint
from gcdl.training.watcher import Watcher

_SEEDS = 2
_CANDIDATES = 6
_LAST = 5
"""Steps whose mean training loss is looked at."""


@dataclass(frozen=True)
class Reached:
    """What a candidate takes to the loss.

    Attributes
    ----------
    tried : the candidate.
    steps : of each seed that reached it.
    seconds : mean steps times predicted seconds of a step; inf: some seed has not reached it.
    limit : steps after which a seed that had not reached it was left.
    """

    tried: Tried
    steps: list[int]
    seconds: float
    limit: int


def seconds_to_loss(lab: Laboratory, tried: Sequence[Tried], target: float, until: float) -> list[Reached]:
    """Train candidates, the fastest first, until ``time.monotonic()`` is ``until``; return them by seconds to the loss.

    Raises
    ------
    UsageError : the problem can't be trained here: its data are missing, or a script made it.
    """
    with tempfile.TemporaryDirectory(prefix="gcdl-advise-") as folder:
        trace = Path(folder) / "delays.npz"
        typical = np.median(lab.trace.one_shard)
        slower = np.maximum(lab.trace.one_shard - typical, 0.0) * lab.observed.loads
        write_trace(trace, lab.trace.delay + slower)
        found, best = [], math.inf
        for one in tried[:_CANDIDATES]:
            if time.monotonic() > until:
                break
            # Whoever takes longer than the best so far need not be followed to the end.
            most = min(lab.wanted.config.steps, math.ceil(best / one.prediction.seconds) if math.isfinite(best) else math.inf)
            found.append(_trained(one, trace, typical, target, int(most), Path(folder), until))
            best = min(best, 1.5 * found[-1].seconds)
        return sorted(found, key=lambda one: one.seconds)


def _trained(one: Tried, trace: Path, shard: float, target: float, most: int, folder: Path, until: float) -> Reached:
    steps: list[int] = []
    for seed in range(_SEEDS):
        text = _config(one.candidate, trace, shard, seed, most)
        reached = _steps_to(text, target, Path(tempfile.mkdtemp(dir=folder)) / "run", until)
        if reached is None:
            return Reached(one, steps, math.inf, most)
        steps.append(reached)
    return Reached(one, steps, float(np.mean(steps)) * one.prediction.seconds, most)


def _config(candidate: Candidate, trace: Path, shard: float, seed: int, steps: int) -> str:
    tables = tomllib.loads(candidate.resolved)
    quiet = {"eval_every": 0, "checkpoint_every": 0, "seconds_per_shard": float(shard), "tensorboard": False}
    changed = {"seed": tables["seed"] + seed, "steps": steps, "stragglers": {"kind": "trace", "file": str(trace)}}
    return tomli_w.dumps({**tables, **changed, "run": {**tables["run"], **quiet}})


def _steps_to(text: str, target: float, out: Path, until: float) -> int | None:
    """Return the steps to the loss; None: not reached."""
    last: deque[float] = deque(maxlen=_LAST)
    run = simulated_run(StartingPoint(parse(text), out), Watcher())
    try:
        for record in run:
            last.append(record.train_loss)
            if len(last) == _LAST and sum(last) <= _LAST * target:
                return record.step + 1
            if time.monotonic() > until:
                return None
    except NonFiniteLoss:
        return None
    finally:
        run.close()
    return None

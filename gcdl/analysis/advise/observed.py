"""What a run folder tells of its steps, in tables: when each reply came, and what it and the master were busy with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from gcdl.analysis.advise.stand_in import ProblemSizes, one_tensor
from gcdl.analysis.series import numbers
from gcdl.config import Config, Experiment
from gcdl.errors import ConfigError, DataError
from gcdl.stragglers import delays_at
from gcdl.training.build import gradients_a_step
from gcdl.training.run_files import MANIFEST, STEPS
from gcdl.training.run_reader import History, read_run
from gcdl.types import IntVector, Mask, Matrix, Weights

LEAST_STEPS = 20
"""Steps that an advice needs."""
_WARM_UP = 3
"""First steps that are left out, where a run has so many that it can spare them: caches and connections are cold in them."""


@dataclass(frozen=True, eq=False)
class Observed:
    """The steps of a run.

    Attributes
    ----------
    history : the run folder, without its first steps.
    config : the run's, resolved.
    manifest : what it ran on.
    sizes : of the problem.
    experiment : what the config describes, with the problem left out.
    seconds, waited, decoding, updating : (T,) of the steps: whole; until the last reply that was used; the master's work.
    reply, compute, encode, slept : (T, n) seconds of the replies used; NaN where there was none. When it came, from the
        step's beginning; computing, as long as the worker's injected slowness makes it; encoding; injected sleep.
    task_bytes : (T, n) of the tasks sent.
    lost : (T, n) whether the worker was lost.
    """

    history: History
    config: Config
    manifest: dict[str, Any]
    sizes: ProblemSizes
    experiment: Experiment
    seconds: Weights
    waited: Weights
    decoding: Weights
    updating: Weights
    reply: Matrix
    compute: Matrix
    encode: Matrix
    slept: Matrix
    task_bytes: Matrix
    lost: Mask

    @property
    def n(self) -> int:
        """The number of workers."""
        return self.history.workers

    @property
    def simulated(self) -> bool:
        """Whether the seconds are virtual."""
        return self.manifest.get("transport") != "mpi"

    @property
    def loads(self) -> IntVector:
        """(n,) gradients of a shard that each worker computes in a step."""
        return gradients_a_step(self.experiment)

    @property
    def hosts(self) -> list[str]:
        """The host of the master, and of each worker, (n + 1,); all the same where the run does not say."""
        named = self.manifest.get("hosts")
        if isinstance(named, list) and len(named) == self.n + 1:
            return [str(name) for name in named]
        return [str(self.manifest.get("host", "this host"))] * (self.n + 1)

    @property
    def host_numbers(self) -> IntVector:
        """(n,) the host of each worker by number; 0 is the master's."""
        numbered = {name: i for i, name in enumerate(dict.fromkeys(self.hosts))}
        return np.array([numbered[name] for name in self.hosts[1:]])

    def mean(self, key: str) -> float:
        """Return the mean over the steps of what a key of ``steps.jsonl`` says."""
        return float(np.nan_to_num(numbers(self.history, key)).mean())


def observe(path: Path) -> Observed:
    """Read a run folder.

    Raises
    ------
    DataError : not a run folder, a damaged one, or one with too few steps.
    ConfigError : its config is not valid any more.
    """
    history = read_run(path).last_part()
    recorded = history.steps
    history = replace(history, steps=list(takewhile(_with_the_configs_code, recorded)))
    if len(history.steps) < LEAST_STEPS:
        which = "steps" if len(history.steps) == len(recorded) else "steps with the config's code"
        raise DataError(f"{path / STEPS}: {len(history.steps)} {which} are too few to advise on; {LEAST_STEPS} at least")
    manifest = _manifest(path / MANIFEST)
    config = history.config.for_workers(history.workers)
    sizes = _sizes(history, config, timing_only=bool(manifest.get("timing_only")))
    experiment = sizes.experiment(config)
    lines = history.steps[_WARM_UP if len(history.steps) >= LEAST_STEPS + _WARM_UP else 0 :]
    steps = replace(history, steps=lines)
    reply, compute = steps.by_worker("reply_seconds"), steps.by_worker("compute_seconds")
    none = np.where(np.isnan(reply), np.nan, 0.0)
    told = "encode_seconds" in lines[0]  # a run of an earlier version does not tell these
    encode, slept = (steps.by_worker("encode_seconds"), steps.by_worker("slept_seconds")) if told else (none, none)
    seconds, waited = numbers(steps, "seconds"), np.nanmax(reply, axis=1)
    decoding, updating = (
        (_seconds(steps, "decode_seconds"), _seconds(steps, "update_seconds")) if told else (seconds - waited, 0.0 * seconds)
    )
    # A worker's injected slowness is a sleep that grows with its work, as a slow machine's seconds do.
    factors = np.array([delays_at(experiment.stragglers, steps.workers, config.seed, line["step"]).factor for line in lines])
    slowness = np.minimum((factors - 1.0) * (compute - encode), slept)
    return Observed(
        history=steps, config=config, manifest=manifest, sizes=sizes, experiment=experiment,
        seconds=seconds, waited=waited, decoding=decoding, updating=updating,
        reply=reply, compute=compute - encode + slowness, encode=encode, slept=slept - slowness,
        task_bytes=_task_bytes(steps), lost=_lost(steps),
    )  # fmt: skip


def _with_the_configs_code(line: Mapping[str, Any]) -> bool:
    """Whether a step has the code of the config: no other one has taken over in it (``run.on_loss``)."""
    recoded = line.get("recoded")
    return recoded is None or bool(recoded.get("configured"))


def _seconds(steps: History, key: str) -> Weights:
    """Return what a key of ``steps.jsonl`` says that no other reader of a run looks at.

    Raises
    ------
    DataError : it is no number.
    """
    for line in steps.steps:
        if isinstance(line.get(key), bool) or not isinstance(line.get(key), int | float):
            raise DataError(f"{steps.path / STEPS}, line {line['step'] + 1}: {key}: {line.get(key)!r} is not a number")
    return numbers(steps, key)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(manifest, dict):
        raise DataError(f"{path}: not what a run writes")
    return manifest


def _sizes(history: History, config: Config, *, timing_only: bool) -> ProblemSizes:
    """Return the sizes of a run's problem.

    A run made by a script, or by a module that is not here, has a problem that can't be built: then its summary tells d.
    """
    d = config.simulate.parameters if timing_only else None
    try:
        problem = Experiment(config, history.workers).problem
        local = getattr(problem, "local", None)
        return ProblemSizes(problem.layout() if d is None else one_tensor(d), 1 if local is None else local.steps)
    except ConfigError as error:
        d = d or (history.summary or {}).get("parameters")
        if not isinstance(d, int) or d < 1:
            raise DataError(f"{history.path}: no summary says how many parameters the model has, and {error}") from None
        return ProblemSizes(one_tensor(d), config.choices["problem"].values.get("local_steps") or 1)


def _task_bytes(steps: History) -> Matrix:
    found = np.full((len(steps.steps), steps.workers), np.nan)
    for row, line in zip(found, steps.steps, strict=True):
        row[:] = line.get("downlink_by_worker", line["downlink_bytes"] / steps.workers)
    return found


def _lost(steps: History) -> Mask:
    lost = np.zeros((len(steps.steps), steps.workers), dtype=np.bool_)
    for row, line in zip(lost, steps.steps, strict=True):
        row[line["lost"]] = True
    return lost

"""``run.masters = 0``, settled before the ranks are started: their number depends on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gcdl.config import Config, Experiment
from gcdl.launch.mpirun import hosts_of, with_workers
from gcdl.training.masters_choice import masters_that_pay


def settle(config: Config, hostfile: Path | None, say: Callable[[str], None]) -> Config:
    """Return a config that leaves the number of masters open with that filled in, and its number of workers.

    Raises
    ------
    UsageError, ConfigError : as of :func:`gcdl.launch.mpirun.with_workers`, and of what the config describes.
    """
    counted = with_workers(config, hostfile)
    assert counted.workers is not None
    experiment = Experiment.of(counted, counted.workers)
    masters = masters_that_pay(experiment, experiment.problem.layout(), say, _hosts(hostfile))
    run = config.run.model_copy(update={"masters": masters})
    return with_workers(replace(config, run=run), hostfile)


def _hosts(hostfile: Path | None) -> int:
    """Return how many hosts the ranks will lie on."""
    if hostfile is not None:
        return hosts_of(hostfile)
    return int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))

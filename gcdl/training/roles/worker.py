"""A rank of a run over MPI other than 0: it serves as a worker, or waits as a spare, until the master says that all is done."""

from __future__ import annotations

import importlib
import platform
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gcdl.codes import DECODERS
from gcdl.config import Config, Experiment, parse
from gcdl.errors import UsageError
from gcdl.host.cores import leave_core
from gcdl.host.processes import end_soon, when_gone
from gcdl.problems import MadeByHand
from gcdl.protocol.coding import CodeRow
from gcdl.training.build import faults_since, limit_threads, make_ends, make_worker
from gcdl.training.local_steps_choice import rehearsal
from gcdl.training.slices import parts_for, slice_ends
from gcdl.training.worker_evaluations import share_of
from gcdl.types import aligned_vector

if TYPE_CHECKING:
    from gcdl.transport.mpi.job import Job
    from gcdl.transport.mpi.worker_end import Prepared

_COLLECTIVE_SECONDS = 120.0
_SECONDS_AFTER_SIGTERM = 10
_SECONDS_AFTER_MASTER = 10.0


def run_worker(job: Job, config: Config | None = None, patience: float = _COLLECTIVE_SECONDS) -> bool:
    """Serve until the master says that the run is over; return whether there was one.

    There is none if the master found at once that it can't begin. The caller then ends the job.

    Parameters
    ----------
    job : all ranks.
    config : of a script, whose objects no text can hold; None: what the master sends.
    patience : seconds to wait for the master to begin.

    Raises
    ------
    MasterGone : the master is gone, or silent for too long.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop_soon)
    shared = job.broadcast(None, patience)
    if "patience" in shared:  # rank 0 loads its data now
        if shared["torch"]:
            importlib.import_module("torch")
        if shared["masters"] > 1:
            job.place_masters(shared["masters"], shared["patience"])
        patience = shared["patience"]
        shared = job.broadcast(None, patience)
    while shared.get("rehearsal"):
        _serve(job, shared, config)
        if job.damaged:
            return True
        shared = job.broadcast(None, patience)
    if shared["run"] is None:
        return False
    _serve(job, shared, config)
    return True


def _serve(job: Job, shared: dict[str, Any], config: Config | None) -> None:
    """Serve in a run, or in its rehearsal. ``shared``: what the master tells all ranks; ``config``: of a script."""
    from gcdl.training.roles.slice_master import serve_slice
    from gcdl.transport.mpi.probe import answer_host
    from gcdl.transport.mpi.worker_end import serve

    if shared["probe"]:
        answer_host(job)
    master = shared["master"]
    if master["host"] == platform.node():
        # MPI tells a worker that waits for it. This is for one in the middle of a long pass.
        when_gone(master["pid"], master["born"], lambda: end_soon(_SECONDS_AFTER_MASTER))
        leave_core(shared["core"])

    n = int(shared["n"])
    own = parse(shared["config"]) if config is None else _adapted(config, shared["adapted"]).for_workers(n)
    if shared.get("rehearsal"):
        own = rehearsal(own)
    experiment = Experiment.of(own, n)
    if isinstance(experiment.problem, MadeByHand):
        experiment.problem.take_over(shared["model"])
    if job.rank < shared["masters"]:
        serve_slice(job, experiment, shared)
        return
    if job.rank >= shared["masters"] + n:
        experiment.problem.layout()  # a spare imports torch before it is needed
    serve(
        job,
        run=shared["run"],
        n=n,
        masters=shared["masters"],
        master_timeout=shared["master_timeout"],
        prepare=_Preparation(job.rank, experiment, shared, script=config is not None).worker,
        checksums=own.run.checksums,
    )
    if shared.get("rehearsal") and isinstance(experiment.problem, MadeByHand):
        experiment.problem.restart()


def _adapted(config: Config, values: Mapping[str, Mapping[str, Any]]) -> Config:
    """Return a script's config with what follows from the run that it resumes, by table."""
    for table, changed in values.items():
        config = config.with_values(table, **changed)
    return config


@dataclass(frozen=True)
class _Preparation:
    """Makes the worker that this rank is to be: a spare hears only when it is needed which one.

    Attributes
    ----------
    rank : this process.
    experiment : what this rank runs.
    shared : what the master told all ranks.
    script : whether the experiment was made by a script, and not from what the master sent.
    """

    rank: int
    experiment: Experiment
    shared: dict[str, Any]
    script: bool

    def worker(self, worker: int, since: int) -> Prepared:
        """Load a worker's shards; return it, and its ends of the downlinks. ``since``: its first step.

        Raises
        ------
        UsageError : this rank's config or samples are not rank 0's.
        """
        from gcdl.transport.mpi.worker_end import Prepared

        self._check_same()
        experiment, shared = self.experiment, self.shared
        row = CodeRow.of_plain(shared["rows"][worker])
        limit_threads(experiment)  # drawing data may sum too
        faults = faults_since(experiment, max(since, shared["since"]))
        share = share_of(experiment, worker)
        built = make_worker(experiment, worker, row, experiment.problem.load(row.shards), faults, share)
        codec = experiment.compressor.codec(built.layout)
        ends = make_ends(experiment, codec, np.array(shared["shifts"]), DECODERS[shared["decoder"]])
        fresh = shared["fresh"] and since == 0
        parts = parts_for(codec, built.layout.size, shared["masters"])
        limit_threads(experiment)
        if parts is None:
            return Prepared(built, [experiment.downlink.follower(ends, fresh=fresh)], k=experiment.problem.k)
        model = aligned_vector(built.layout.size)
        follower = experiment.downlink.follower
        followers = [follower(slice_ends(ends, part, model[part.where]), fresh=fresh) for part in parts]
        return Prepared(built, followers, parts, model, experiment.problem.k)

    def _check_same(self) -> None:
        if self.script and self.experiment.config.toml() != self.shared["config"]:
            raise UsageError(
                f"rank {self.rank}: the script asks for another run here than on rank 0; all ranks must make the same"
            )
        problem = self.experiment.problem
        if isinstance(problem, MadeByHand) and problem.fingerprint() != self.shared["problem"]:
            raise UsageError(f"problem: the samples of rank {self.rank} are not those of rank 0; seed what is random in them")


def _stop_soon(number: int, frame: object) -> None:
    """SIGTERM to a worker: the master, which got it too, writes a checkpoint and says STOP; but do not wait for ever."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_SECONDS_AFTER_SIGTERM)

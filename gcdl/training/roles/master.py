"""Rank 0 of a run over MPI: it reads the config, tells the other ranks what they need, and runs the training loop."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gcdl.config import Experiment
from gcdl.errors import TooManyLost, UsageError, WorkerLost
from gcdl.host.cores import choose_core
from gcdl.host.launcher_environment import Launch
from gcdl.host.processes import this_process
from gcdl.host.stop_request import StopRequest
from gcdl.problems import Evaluator, MadeByHand, Problem
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.training.build import limit_threads, row_of, task_format
from gcdl.training.callbacks import Callback
from gcdl.training.learner import Learner
from gcdl.training.loggers import Logger
from gcdl.training.loop import Run, TrainingLoop, run_to_end
from gcdl.training.starting_point import StartingPoint
from gcdl.training.summary import Summary
from gcdl.training.watcher import Watcher

if TYPE_CHECKING:
    from gcdl.transport.mpi.job import Job
    from gcdl.transport.mpi.master_end import MpiTransport

_COLLECTIVE_SECONDS = 120.0


def run_master(job: Job, read: Callable[[], StartingPoint], watcher: Watcher, began: float) -> Summary:
    """As :func:`mpi_run`, to its end."""
    return run_to_end(mpi_run(job, read, watcher, began))


def mpi_run(
    job: Job,
    read: Callable[[], StartingPoint],
    watcher: Watcher,
    began: float,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
) -> Run:
    """Be rank 0 of a run, step by step; the other ranks call :func:`gcdl.training.roles.run_worker`.

    The caller then ends the job.

    Parameters
    ----------
    job : all ranks.
    read : reads the config, or the run to resume; an error of it ends all ranks.
    watcher : is told what happens.
    began : when the job was launched, in seconds of ``time.time()``.
    callbacks, loggers : of a script.

    Raises
    ------
    UsageError, TooManyLost, WorkerError, Interrupted
    """
    from gcdl.transport.mpi.master_end import MpiTransport
    from gcdl.transport.mpi.respawn import Replacements

    try:
        # What can be wrong is found before any rank imports torch.
        start = read()
        experiment = _experiment(job, start)
        evaluator = experiment.problem.evaluator()
        shared = {"run": secrets.randbits(63), **_told_to_all(experiment, start)}
    except Exception:
        job.broadcast({"run": None}, _COLLECTIVE_SECONDS)
        raise
    job.broadcast(shared, _COLLECTIVE_SECONDS)
    if not job.survives:
        watcher.say(
            "no fault tolerance under this launcher: a killed worker ends the job, and gcdl resume goes on from its last "
            "checkpoint (gcdl run, and mpirun --with-ft ulfm, have it with Open MPI 5)"
        )
    options = start.config.run
    stop = StopRequest()
    transport = MpiTransport(
        job,
        run=shared["run"],
        interrupted=stop,
        say=watcher.say,
        spares=options.spares,
        replacements=Replacements(job, options.replace, shared),
        shared_memory=options.shared_memory,
    )
    try:
        with stop.listening():
            learner = _start_workers(transport, experiment, evaluator)
            hosts = transport.hosts()
            loop = TrainingLoop(
                experiment,
                transport,
                start,
                watcher,
                learner,
                stop,
                began=began,
                hosts=hosts,
                callbacks=callbacks,
                loggers=loggers,
            )
            return (yield from loop.run())
    except WorkerLost as lost:
        raise TooManyLost(f"start-up: {lost}") from lost
    finally:
        transport.close()


def _experiment(job: Job, start: StartingPoint) -> Experiment:
    """Return what to run with the ranks that there are, checked.

    Raises
    ------
    UsageError : there are too few ranks, or the config or the folder is wrong.
    """
    spares = start.config.run.spares
    if job.workers <= spares:
        raise UsageError(f"run.spares: {spares} spares need {spares + 2} ranks at least; there are {job.workers + 1}")
    experiment = Experiment.of(start.config, job.workers - spares).check()
    start.check(experiment)
    limit_threads(experiment)
    return experiment


def _told_to_all(experiment: Experiment, start: StartingPoint) -> dict[str, Any]:
    """Return what all ranks are told of the run, JSON-ready."""
    return {
        "master": this_process(),
        "config": experiment.config.toml(),
        "rows": [row_of(experiment, worker).plain() for worker in range(experiment.n)],
        "since": start.since,
        "fresh": start.checkpoint is None,
        "n": experiment.n,
        "shifts": experiment.code.shifts.tolist(),
        "decoder": experiment.decoder_name,
        **_by_hand(experiment.problem),
        "core": choose_core(Launch.read()),
    }


def _by_hand(problem: Problem) -> dict[str, str]:
    """Return what the other ranks must be told of a problem that does not follow from the config alone."""
    if not isinstance(problem, MadeByHand):
        return {}
    return {"problem": problem.fingerprint(), "model": problem.hand_over()}


def _start_workers(transport: MpiTransport, experiment: Experiment, evaluator: Evaluator) -> Learner:
    """Wait until all workers are ready, then return the master's side of learning."""
    layout = experiment.problem.layout()
    codec = experiment.compressor.codec(layout)
    transport.start(
        task_format(experiment, codec),
        HEADER_BYTES + codec.payload_bytes,
        experiment.config.run.start_timeout,
        state_bytes=codec.state_bytes,
        whole_bytes=0 if experiment.downlink.replicas else experiment.downlink.size(layout.size, 0, 0, []),
    )
    return Learner.of(experiment, evaluator)

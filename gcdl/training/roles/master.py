"""Rank 0 of a run over MPI: it reads the config, tells the other ranks what they need, and runs the training loop."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gcdl.compressors import Codec
from gcdl.compressors.parts import Part
from gcdl.config import Config, Experiment, RunOptions
from gcdl.errors import TooManyLost, UsageError, WorkerLost
from gcdl.host.cores import choose_core
from gcdl.host.launcher_environment import Launch
from gcdl.host.processes import this_process
from gcdl.host.stop_request import StopRequest
from gcdl.problems import Evaluator, MadeByHand, Problem
from gcdl.protocol.master import Master
from gcdl.protocol.model_slices import ModelSlices
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.training.build import limit_threads, make_ends, master_threads, row_of
from gcdl.training.callbacks import Callback
from gcdl.training.learner import Learner
from gcdl.training.local_steps_choice import LocalStepsChoice, choose_local_steps, rehearsal
from gcdl.training.loggers import Logger
from gcdl.training.loop import Run, TrainingLoop, run_to_end
from gcdl.training.slices import idle_masters_notice, local_slices, one_of_the_slices, parts_for, slice_ends, whole_model_bytes
from gcdl.training.starting_point import StartingPoint
from gcdl.training.summary import Summary
from gcdl.training.timing_only import NoEvaluator
from gcdl.training.watcher import Watcher
from gcdl.training.worker_evaluations import make_evaluator, worker_evaluations

if TYPE_CHECKING:
    from gcdl.transport.mpi.job import Job
    from gcdl.transport.mpi.master_end import MpiTransport
    from gcdl.transport.mpi.other_masters import OtherMasters

_COLLECTIVE_SECONDS = 120.0


Ready = Callable[[int, int], None]
"""Is told how many workers are ready, of how many."""
Say = Callable[[str], None]
"""Takes a line for the user."""


def _tell_nobody(ready: int, workers: int) -> None:
    pass


def run_master(
    job: Job, read: Callable[[], StartingPoint], watcher: Watcher, began: float, ready: Ready = _tell_nobody
) -> Summary:
    """As :func:`mpi_run`, to its end."""
    return run_to_end(mpi_run(job, read, watcher, began, ready=ready, send_ahead=True))


def mpi_run(
    job: Job,
    read: Callable[[], StartingPoint],
    watcher: Watcher,
    began: float,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    ready: Ready = _tell_nobody,
    *,
    send_ahead: bool = False,
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
    ready : is told how many workers are ready, of how many, while they start.
    send_ahead : see :class:`gcdl.training.loop.TrainingLoop`.

    Raises
    ------
    UsageError, TooManyLost, WorkerError, Interrupted
    """
    from gcdl.transport.mpi.probe import probe_hosts

    patience = _COLLECTIVE_SECONDS
    stop = StopRequest()
    try:
        # What can be wrong, but for the data, is found before any rank imports torch.
        start = read()
        start, experiment = _experiment(job, start)
        # The others wait for as long as this rank may take to load its data.
        masters = experiment.config.run.masters
        torch = getattr(experiment.problem, "needs_torch", False)
        job.broadcast({"patience": start.config.run.start_timeout, "masters": masters, "torch": torch}, patience)
        patience = start.config.run.start_timeout
        if masters > 1:
            job.place_masters(masters, patience)
        if experiment.config.leaves_local_steps_open:
            with stop.listening():
                choice = _rehearse(job, start, experiment, stop, watcher.say, ready)
            watcher.say(choice.line())
            adapted = {**start.adapted, "problem": {**start.adapted.get("problem", {}), "local_steps": choice.steps}}
            config = start.config.with_local_steps(choice.steps)
            start, experiment = _experiment(job, replace(start, config=config, adapted=adapted, chosen=choice.fields()))
        evaluator = make_evaluator(experiment)
        shared = {"run": secrets.randbits(63), **_told_to_all(experiment, start)}
    except Exception:
        if not job.damaged:
            job.broadcast({"run": None}, patience)
        raise
    job.broadcast(shared, patience)
    links = probe_hosts(job) if shared["probe"] else None
    if not job.survives:
        watcher.say(
            "no fault tolerance under this launcher: a killed worker ends the job, and gcdl resume goes on from its last "
            "checkpoint (gcdl run, and mpirun --with-ft ulfm, have it with Open MPI 5)"
        )
    transport = _transport(job, shared, start.config.run, stop, watcher.say)
    evaluations = worker_evaluations(experiment, evaluator)
    if evaluations is not None:
        transport.take_evaluations(evaluations.take, evaluations.most_bytes)
    try:
        with stop.listening():
            build = _Build(job, shared, transport, experiment, stop, watcher.say, ready)
            learner = build.learner(evaluator)
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
                links=links,
                evaluations=evaluations,
                callbacks=callbacks,
                loggers=loggers,
                send_ahead=send_ahead,
            )
            return (yield from loop.run())
    except WorkerLost as lost:
        raise TooManyLost(f"start-up: {lost}") from lost
    finally:
        transport.close()


def _transport(job: Job, shared: dict[str, Any], options: RunOptions, stop: StopRequest, say: Say) -> MpiTransport:
    """Return the way to the workers that were told ``shared``."""
    from gcdl.transport.mpi.master_end import MpiTransport
    from gcdl.transport.mpi.respawn import Replacements

    return MpiTransport(
        job,
        run=shared["run"],
        interrupted=stop,
        say=say,
        spares=options.spares,
        replacements=Replacements(job, options.replace, {**shared, "probe": False}),
        masters=shared["masters"],
        shared_memory=options.shared_memory,
    )


def _rehearse(
    job: Job, start: StartingPoint, experiment: Experiment, stop: StopRequest, say: Say, ready: Ready
) -> LocalStepsChoice:
    """Take some steps with all ranks, and choose the number of local steps by them. The ranks then wait for the run itself.

    Raises
    ------
    TooManyLost : a rank was lost meanwhile, even if the code tolerates that.
    WorkerError, Interrupted
    """
    likeness = Experiment.of(rehearsal(experiment.config), experiment.n).check()
    shared = {"run": secrets.randbits(63), **_told_to_all(likeness, start), "rehearsal": True, "probe": False}
    job.broadcast(shared, start.config.run.start_timeout)
    transport = _transport(job, shared, likeness.config.run, stop, say)
    try:
        learner = _Build(job, shared, transport, likeness, stop, say, ready).learner(NoEvaluator())
        master = Master(
            transport,
            code=likeness.code,
            slices=learner.slices,
            wait=likeness.wait,
            state_bytes=learner.state_bytes,
            replicas=likeness.replicas,
            say=say,
        )
        choice = choose_local_steps(master.run(likeness.config.steps))
    except WorkerLost as lost:
        raise TooManyLost(f"start-up: {lost}") from lost
    finally:
        transport.close()
        job.part()
    if job.damaged:
        raise TooManyLost('a rank was lost while problem.local_steps = "auto" was settled: start again, or state a number')
    return choice


def _experiment(job: Job, start: StartingPoint) -> tuple[StartingPoint, Experiment]:
    """Return what to run with the ranks that there are, and from where, checked.

    Raises
    ------
    UsageError : there are too few ranks, or the config or the folder is wrong.
    """
    spares, masters = start.config.run.spares, _masters(start.config, job.size)
    if job.size <= masters + spares:
        needed = f"{masters + spares + 1} ranks at least; there are {job.size}"
        if masters > 1:
            raise UsageError(f"run.masters: {masters} masters, a worker and {spares} spares need {needed}")
        raise UsageError(f"run.spares: {spares} spares need {needed}")
    workers = job.size - masters - spares
    start = start.for_workers(workers)
    experiment = Experiment.of(start.config, workers).with_masters(masters).check()
    start.check(experiment)
    limit_threads(experiment)
    return start, experiment


def _masters(config: Config, ranks: int) -> int:
    """Return the number of masters; left open (0) they are all ranks that the workers and the spares leave, or one."""
    left = 1 if config.workers is None else ranks - config.workers - config.run.spares
    return config.run.masters or max(1, left)


def _told_to_all(experiment: Experiment, start: StartingPoint) -> dict[str, Any]:
    """Return what all ranks are told of the run, JSON-ready. ``probe``: the links are measured, for there are several hosts."""
    launch = Launch.read()
    return {
        "master": this_process(),
        "config": experiment.config.toml(),
        "rows": [row_of(experiment, worker).plain() for worker in range(experiment.n)],
        "adapted": {table: dict(values) for table, values in start.adapted.items()},
        "since": start.since,
        "fresh": start.checkpoint is None,
        "n": experiment.n,
        "masters": experiment.config.run.masters,
        # A master that waits for stragglers is silent to all others meanwhile.
        "master_timeout": max(experiment.config.run.master_timeout, experiment.wait.timeout + _COLLECTIVE_SECONDS),
        "shifts": experiment.code.shifts.tolist(),
        "decoder": experiment.decoder_name,
        **_by_hand(experiment.problem),
        "core": choose_core(launch),
        "probe": launch.local_size != launch.size,
    }


def _by_hand(problem: Problem) -> dict[str, str]:
    """Return what the other ranks must be told of a problem that does not follow from the config alone."""
    if not isinstance(problem, MadeByHand):
        return {}
    return {"problem": problem.fingerprint(), "model": problem.hand_over()}


@dataclass(frozen=True)
class _Build:
    """Makes the master's side of learning once all ranks are there, and waits for the others meanwhile."""

    job: Job
    shared: dict[str, Any]
    transport: MpiTransport
    experiment: Experiment
    stop: StopRequest
    say: Say
    ready: Ready

    def learner(self, evaluator: Evaluator) -> Learner:
        """Return the learner when all workers, and all masters, are ready."""
        experiment = self.experiment
        layout = experiment.problem.layout()
        codec = experiment.compressor.codec(layout)
        parts = parts_for(codec, layout.size, self.shared["masters"])
        if notice := idle_masters_notice(layout.size, self.shared["masters"]):
            self.say(notice)
        own = Part.whole(codec, layout.size) if parts is None else parts[0]
        own.codec.threads = master_threads(experiment)
        others = None if parts is None else self._attach_others(parts)
        self.transport.idle = range(1 if parts is None else len(parts), self.shared["masters"])
        # Before the workers are waited for: the optimizer imports most of torch.
        slices = local_slices(experiment, codec) if parts is None or others is None else self._slices(codec, parts, others)
        self.transport.start(
            TaskFormat(experiment.n, own.codec.agreed_count, checksums=experiment.config.run.checksums),
            HEADER_BYTES + own.codec.payload_bytes,
            experiment.config.run.start_timeout,
            state_bytes=codec.state_bytes,
            whole_bytes=whole_model_bytes(experiment, own),
            ready=self.ready,
        )
        if others is not None:
            others.start(experiment.config.run.start_timeout)
        return Learner.of(experiment, codec, evaluator, slices)

    def _attach_others(self, parts: Sequence[Part]) -> OtherMasters:
        """Return the way to the slice masters."""
        from gcdl.transport.mpi.other_masters import OtherMasters

        others = OtherMasters(
            self.job,
            run=self.shared["run"],
            n=self.experiment.n,
            blocks=[part.blocks for part in parts[1:]],
            patience=self.shared["master_timeout"],
            interrupted=self.stop,
            say=self.say,
        )
        self.transport.attach(others)
        return others

    def _slices(self, codec: Codec, parts: Sequence[Part], others: OtherMasters) -> ModelSlices:
        from gcdl.transport.mpi.remote_slices import RemoteSlices

        experiment = self.experiment
        ends = make_ends(experiment, codec, experiment.code.shifts, experiment.code.decoder)
        parameters = ends.initial()
        first = parts[0].where
        own = one_of_the_slices(experiment, slice_ends(ends, parts[0]), parameters[first])
        return RemoteSlices(own, parts, parameters, others)

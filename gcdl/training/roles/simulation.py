"""A run in one process, on a virtual clock: the same master, workers and loop as over MPI."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from gcdl.config import Experiment
from gcdl.downlinks import UNKNOWN
from gcdl.errors import UsageError
from gcdl.host.stop_request import StopRequest
from gcdl.optimizers import for_layout
from gcdl.protocol.master import Master
from gcdl.protocol.model_slices import one_slice
from gcdl.protocol.worker import Worker
from gcdl.training.build import faults_since, make_pace, make_workers
from gcdl.training.callbacks import Callback
from gcdl.training.learner import Learner
from gcdl.training.local_steps_choice import LocalStepsChoice, choose_local_steps, rehearsal
from gcdl.training.loggers import Logger
from gcdl.training.loop import Run, TrainingLoop, run_to_end
from gcdl.training.masters_choice import masters_that_pay
from gcdl.training.slice_messages import MasterSlice
from gcdl.training.slices import idle_masters_notice, parts_for, slices_of_masters
from gcdl.training.starting_point import StartingPoint
from gcdl.training.summary import Summary
from gcdl.training.timing_only import NoCodec, NoEvaluator, NoOptimizer, NoPublishers, no_publishers
from gcdl.training.watcher import Watcher
from gcdl.training.worker_evaluations import make_evaluator
from gcdl.transport.simulated.virtual_clock import SimulatedTransport
from gcdl.types import Layout


def simulate(start: StartingPoint, watcher: Watcher) -> Summary:
    """As :func:`simulated_run`, to its end."""
    return run_to_end(simulated_run(start, watcher))


def simulated_run(
    start: StartingPoint, watcher: Watcher, callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] = ()
) -> Run:
    """Simulate a run, step by step; ``watcher``, ``callbacks`` and ``loggers`` are told of it.

    Raises
    ------
    UsageError : the config names no number of workers, a data file is missing, or the folder holds a run.
    TooManyLost, WorkerError, Interrupted : the run ended early; a checkpoint is kept.
    """
    began = time.time()
    workers = start.config.workers if start.config.workers is not None or start.past is None else start.past.workers
    if workers is None:
        raise UsageError("workers: missing; a simulation needs the number of workers (workers = 8)")
    start = start.for_workers(workers)
    config = start.config
    experiment = Experiment.of(config, workers).check()
    start.check(experiment)
    layout = _layout(experiment, timing_only=start.timing_only)
    if config.run.masters == 0:
        experiment = experiment.with_masters(masters_that_pay(experiment, layout, watcher.say))
    elif (notice := idle_masters_notice(layout.size, config.run.masters)) is not None:
        watcher.say(notice)
    if experiment.config.leaves_local_steps_open:
        choice = _rehearse(experiment, layout)
        watcher.say(choice.line())
        start = replace(start, chosen=choice.fields())
        experiment = Experiment.of(experiment.config.with_local_steps(choice.steps), experiment.n).check()
    made = timing_only(experiment, layout) if start.timing_only else _learning(experiment, layout)
    stop = StopRequest()
    transport = SimulatedTransport(
        make_pace(experiment, layout, made.slices),
        made.workers,
        stop,
        faults=faults_since(experiment, start.since),
        checksums=config.run.checksums,
        first_version=0 if start.checkpoint is None else UNKNOWN,
    )
    with stop.listening():
        loop = TrainingLoop(
            experiment, transport, start, watcher, made.learner, stop, began=began, callbacks=callbacks, loggers=loggers
        )
        return (yield from loop.run())


class Simulated(NamedTuple):
    """Both ends of a simulation: the masters' side of learning, their slices if they are several, and the workers, if any."""

    learner: Learner
    slices: Sequence[MasterSlice]
    workers: list[Worker] | None


def _layout(experiment: Experiment, *, timing_only: bool) -> Layout:
    """Return the model's tensors; of a timing-only simulation that states d: one tensor of that size."""
    d = experiment.config.simulate.parameters if timing_only else None
    return experiment.problem.layout() if d is None else Layout(("parameters",), ((d,),))


def _rehearse(experiment: Experiment, layout: Layout) -> LocalStepsChoice:
    """Take some steps of which only the clock runs, and choose the number of local steps by them."""
    likeness = Experiment.of(rehearsal(experiment.config), experiment.n).check()
    made = timing_only(likeness, layout)
    transport = SimulatedTransport(make_pace(likeness, layout, made.slices), made.workers)
    master = Master(transport, code=likeness.code, slices=made.learner.slices, wait=likeness.wait)
    return choose_local_steps(master.run(likeness.config.steps))


def _learning(experiment: Experiment, layout: Layout) -> Simulated:
    """Return both ends of a simulation that trains a model."""
    codec = experiment.compressor.codec(layout)
    model, slices = slices_of_masters(experiment, codec, experiment.config.run.masters)
    return Simulated(Learner.of(experiment, codec, make_evaluator(experiment), model), slices, make_workers(experiment))


def timing_only(experiment: Experiment, layout: Layout) -> Simulated:
    """Return both ends of a simulation in which only the clock runs: it needs no workers."""
    codec = experiment.compressor.codec(layout)
    parts = parts_for(codec, layout.size, experiment.config.run.masters)
    decoded = [(layout.size, codec)] if parts is None else [(part.where.stop - part.where.start, part.codec) for part in parts]
    publishers = no_publishers(experiment.downlink, for_layout(experiment.optimizer, layout), decoded)
    publisher = NoPublishers(list(dict.fromkeys(publishers)))
    model = one_slice(code=experiment.code, codec=NoCodec(), optimizer=NoOptimizer(), seed=0, publisher=publisher)
    slices = [MasterSlice(part, each) for part, each in zip(parts or [], publishers, strict=parts is not None)]
    return Simulated(Learner(model, 0, NoEvaluator(), layout, learns=False), slices, None)

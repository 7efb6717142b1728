"""A run in one process, on a virtual clock: the same master, workers and loop as over MPI."""

from __future__ import annotations

import time

from gcdl.config import Experiment
from gcdl.downlinks import UNKNOWN
from gcdl.errors import UsageError
from gcdl.host.stop_request import StopRequest
from gcdl.optimizers import for_layout
from gcdl.protocol.model_slices import one_slice
from gcdl.protocol.worker import Worker
from gcdl.training.build import faults_since, make_pace, make_workers
from gcdl.training.learner import Learner
from gcdl.training.loop import Run, TrainingLoop, run_to_end
from gcdl.training.starting_point import StartingPoint
from gcdl.training.summary import Summary
from gcdl.training.timing_only import NoCodec, NoEvaluator, NoOptimizer, NoPublisher
from gcdl.training.watcher import Watcher
from gcdl.transport.simulated.virtual_clock import SimulatedTransport
from gcdl.types import Layout


def simulate(start: StartingPoint, watcher: Watcher) -> Summary:
    """As :func:`simulated_run`, to its end."""
    return run_to_end(simulated_run(start, watcher))


def simulated_run(start: StartingPoint, watcher: Watcher) -> Run:
    """Simulate a run, step by step.

    Raises
    ------
    UsageError : the config names no number of workers, a data file is missing, or the folder holds a run.
    TooManyLost, WorkerError, Interrupted : the run ended early; a checkpoint is kept.
    """
    began = time.time()
    config = start.config
    if config.workers is None:
        raise UsageError("workers: missing; a simulation needs the number of workers (workers = 8)")
    experiment = Experiment.of(config, config.workers).check()
    start.check(experiment)
    learner, workers = _timing_only(experiment) if start.timing_only else _learning(experiment)
    stop = StopRequest()
    transport = SimulatedTransport(
        make_pace(experiment, learner.layout),
        workers,
        stop,
        faults=faults_since(experiment, start.since),
        checksums=config.run.checksums,
        first_version=0 if start.checkpoint is None else UNKNOWN,
    )
    with stop.listening():
        return (yield from TrainingLoop(experiment, transport, start, watcher, learner, stop, began=began).run())


def _learning(experiment: Experiment) -> tuple[Learner, list[Worker]]:
    """Return both ends of a simulation that trains a model."""
    learner = Learner.of(experiment, experiment.problem.evaluator())
    return learner, make_workers(experiment)


def _timing_only(experiment: Experiment) -> tuple[Learner, None]:
    """Return both ends of a simulation in which only the clock runs: it needs no workers."""
    d = experiment.config.simulate.parameters
    layout = experiment.problem.layout() if d is None else Layout(("parameters",), ((d,),))
    codec = experiment.compressor.codec(layout)
    optimizer = for_layout(experiment.optimizer, layout)
    publisher = NoPublisher(experiment.downlink, optimizer, layout.size, codec.payload_bytes, codec.agreed_count)
    slices = one_slice(code=experiment.code, codec=NoCodec(), optimizer=NoOptimizer(), seed=0, publisher=publisher)
    return Learner(slices, 0, NoEvaluator(), layout, learns=False), None

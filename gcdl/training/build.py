"""From an experiment to the objects that a process of its run needs: workers, ends of the downlink, a simulation's clock."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from threadpoolctl import threadpool_limits

from gcdl.codes import Decoder
from gcdl.compressors import Codec
from gcdl.compressors.to_device import vector_and_codec
from gcdl.config import Experiment
from gcdl.downlinks import Ends
from gcdl.errors import DataError
from gcdl.host.launcher_environment import Launch
from gcdl.optimizers import Tuned
from gcdl.problems import CodedGradient, Samples
from gcdl.protocol.coding import CodeRow
from gcdl.protocol.evaluation_share import EvaluationShare
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.tasks import Task
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.protocol.worker import Load, Worker
from gcdl.stragglers import Fault, delays_at
from gcdl.training.run_reader import History, read_run
from gcdl.training.shared_gradients import SharedGradient, on_host
from gcdl.training.slice_messages import MasterSlice, reply_sizes, shared_by, task_overheads, task_sizes
from gcdl.transport.simulated.network import Network, Sizes
from gcdl.transport.simulated.virtual_clock import Pace
from gcdl.types import IntVector, Layout, Matrix, Stream, Weights, rng_for


def row_of(experiment: Experiment, worker: int) -> CodeRow:
    """Return a worker's row of the code."""
    code = experiment.code
    shards = code.shards(worker)
    return CodeRow(shards, code.B[worker, shards], int(code.shifts[worker]))


def faults_since(experiment: Experiment, step: int) -> list[Fault]:
    """Return the injected faults of ``step`` and later: those before have struck."""
    return [fault for fault in experiment.faults if fault.step >= step]


def make_worker(
    experiment: Experiment,
    worker: int,
    row: CodeRow,
    samples: Samples,
    faults: Sequence[Fault] = (),
    share: EvaluationShare | None = None,
) -> Worker:
    """Return a worker. Its shards are in ``samples``; of ``faults`` it takes those that name it.

    ``share``: what it evaluates.
    """
    problem, held = experiment.problem, samples

    def load_row(row: CodeRow) -> Callable[[], CodedGradient]:
        missing = np.array([j for j in row.shards if int(j) not in held], dtype=np.int64)
        found = {**held, **(problem.load(missing) if missing.size else {})}
        wanted = {int(j): found[int(j)] for j in row.shards}

        def make() -> CodedGradient:
            nonlocal held
            held = wanted
            return problem.gradient(wanted, row.shards, row.weights)

        return make

    return _worker_of(experiment, worker, row, problem.gradient(samples, row.shards, row.weights), load_row, faults, share)


def _worker_of(
    experiment: Experiment,
    worker: int,
    row: CodeRow,
    gradient: CodedGradient,
    load_row: Load,
    faults: Sequence[Fault] = (),
    share: EvaluationShare | None = None,
) -> Worker:
    layout = experiment.problem.layout()
    coded, codec = vector_and_codec(gradient, experiment.compressor.codec(layout), layout.size)
    return Worker(
        worker,
        experiment.n,
        gradient=gradient,
        codec=codec,
        layout=layout,
        stragglers=experiment.stragglers,
        seed=experiment.config.seed,
        shift=row.shift,
        faults=[fault for fault in faults if fault.worker == worker],
        coded=coded,
        load_row=load_row,
        share=share,
    )


def make_workers(experiment: Experiment) -> list[Worker]:
    """Load all data once and return all n workers. Those with equal rows of B share one coded gradient.

    Raises
    ------
    DataError : a data file is missing or not of its format.
    """
    limit_threads(experiment)
    samples = experiment.problem.load(np.arange(experiment.problem.k))
    d = experiment.problem.layout().size
    gradients: WeakValueDictionary[tuple[bytes, bytes], SharedGradient] = WeakValueDictionary()

    def load_row(row: CodeRow) -> Callable[[], CodedGradient]:
        def make() -> CodedGradient:
            key = (row.shards.tobytes(), row.weights.tobytes())
            shared = gradients.get(key)
            if shared is None:
                gradient = experiment.problem.gradient(samples, row.shards, row.weights)
                if not on_host(gradient):
                    return gradient
                shared = gradients[key] = SharedGradient(gradient, d)
            shared.holders += 1
            return shared

        return make

    rows = [row_of(experiment, i) for i in range(experiment.n)]
    return [_worker_of(experiment, i, row, load_row(row)(), load_row) for i, row in enumerate(rows)]


def master_threads(experiment: Experiment) -> int:
    """Return how many threads decode at this master."""
    return experiment.config.run.master_threads or Launch.read().own_cores()


def limit_threads(experiment: Experiment) -> None:
    """Hold the compute libraries that are loaded by now to [run] threads. torch is not loaded for this alone."""
    threads = experiment.config.run.threads or Launch.read().threads()
    threadpool_limits(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def make_ends(experiment: Experiment, codec: Codec, shifts: IntVector, decoder: Decoder) -> Ends:
    """Return what both ends of the downlink know. They may share ``codec`` with whoever decodes or encodes replies."""
    problem = experiment.problem
    return Ends(
        layout=problem.layout(),
        optimizer=experiment.optimizer,
        initial=problem.initial_parameters,
        codec=codec,
        seed=experiment.config.seed,
        shifts=shifts,
        finish=decoder.finish,
    )


def task_format(experiment: Experiment, codec: Codec) -> TaskFormat:
    """Return the layout of a task's bytes."""
    return TaskFormat(experiment.n, codec.agreed_count, checksums=experiment.config.run.checksums)


def make_pace(experiment: Experiment, layout: Layout, slices: Sequence[MasterSlice] = ()) -> Pace:
    """Return what [simulate] and [stragglers] say of how long things take, for a model of this layout.

    ``slices``: of several masters; none: there is one master.

    Raises
    ------
    DataError : [simulate] compute names no run, or one that measured nothing.
    """
    config = experiment.config
    options = config.simulate.model_dump(exclude={"compute", "parameters"})
    several = len(slices) > 1
    return Pace(
        loads=gradients_a_step(experiment),
        passes=_passes(experiment),
        delays=lambda step: delays_at(experiment.stragglers, experiment.n, config.seed, step),
        seconds_per_shard=_seconds_per_shard(experiment),
        network=Network(**options),
        **(_of_several_masters(experiment, slices) if several else _of_one_master(experiment, layout)),
    )


def _of_one_master(experiment: Experiment, layout: Layout) -> dict[str, Any]:
    """Return the fields of a :class:`Pace` that depend on the masters, where there is one."""
    codec = experiment.compressor.codec(layout)
    form = task_format(experiment, codec)
    reply = HEADER_BYTES + codec.payload_bytes

    def task_bytes(task: Task, base: int) -> Sizes:
        nbytes = form.nbytes(task, base)
        return Sizes(nbytes, nbytes)

    return {
        "d": layout.size,
        "task_bytes": task_bytes,
        "task_overhead": form.overhead_bytes,
        "reply_bytes": Sizes(reply, reply),
    }


def _of_several_masters(experiment: Experiment, slices: Sequence[MasterSlice]) -> dict[str, Any]:
    """Return the fields of a :class:`Pace` that depend on the masters, where there are several."""
    optimizer = experiment.optimizer
    return {
        "d": max(part.where.stop - part.where.start for part, _ in slices),
        "task_bytes": task_sizes(experiment.n, slices),
        "task_overhead": sum(task_overheads(experiment.n, slices)),
        "reply_bytes": reply_sizes(slices),
        "masters": shared_by(experiment.n, slices, clips=isinstance(optimizer, Tuned) and optimizer.clip_norm > 0.0),
    }


def gradients_a_step(experiment: Experiment) -> IntVector:
    """Return how many gradients of a shard each worker computes in a step, (n,): its shards, times the local steps."""
    return np.asarray(np.count_nonzero(experiment.code.B, axis=1) * _passes(experiment))


def gradients_by_step(history: History) -> Matrix:
    """Return how many gradients of a shard each worker computed in each step of a run that was, (steps, n); NaN: none."""
    experiment = Experiment.of(history.config, history.workers)
    loads = gradients_a_step(experiment).astype(np.float64)
    table = np.empty((len(history.steps), history.workers))
    for row, line in zip(table, history.steps, strict=True):
        if (code := line.get("recoded")) is not None:
            loads = np.zeros(history.workers)
            loads[code["workers"]] = [len(shards) * _passes(experiment) for shards in code["assignment"]]
        row[:] = np.where(loads > 0.0, loads, np.nan)
    return table


def _passes(experiment: Experiment) -> int:
    """Return how many gradients of each of its shards a worker computes in a step: the local steps."""
    local = getattr(experiment.problem, "local", None)
    return 1 if local is None else int(local.steps)


def _seconds_per_shard(experiment: Experiment) -> Callable[[int], Weights]:
    """Return a function of the step: (n,) seconds a shard, always the same, or drawn from what a run measured."""
    config, n = experiment.config, experiment.n
    if not config.simulate.compute:
        same = np.full(n, config.run.seconds_per_shard)
        return lambda step: same
    measured = measured_seconds_per_shard(Path(config.simulate.compute))
    return lambda step: measured[rng_for(config.seed, Stream.COMPUTE, step).integers(len(measured), size=n)]


def measured_seconds_per_shard(path: Path) -> Weights:
    """Return a run's seconds of computing and encoding a shard, one number for each reply used, as a flat array.

    Raises
    ------
    DataError : there is no such run, or it recorded no such seconds.
    """
    history = read_run(path).last_part()
    seconds = history.by_worker("compute_seconds") / gradients_by_step(history)
    found = seconds[np.isfinite(seconds)]
    if found.size == 0:
        raise DataError(f"{path}: no step was recorded")
    return np.asarray(found, dtype=np.float64)

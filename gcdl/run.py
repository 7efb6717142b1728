"""From a config to a finished run. The one module that knows everyone.

:func:`be_master` and :func:`be_worker` are what MPI ranks call, :func:`simulate` does the same in one process on a virtual
clock; both ways lead to :func:`_conduct`, the only place where a run's records become its files.
"""

from __future__ import annotations

import platform
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from gcdl.advice import coverage_warning, noise_warning
from gcdl.checkpoint import FOLDER, Checkpoint
from gcdl.config import Config, Experiment, parse
from gcdl.errors import GcdlError, TooManyLost, UsageError, WorkerLost
from gcdl.keeper import Keeper
from gcdl.lifeline import end_soon, this_process, when_gone
from gcdl.master import Master
from gcdl.messages import HEADER_BYTES, TaskFormat
from gcdl.problems import Evaluation, Evaluator, Samples
from gcdl.records import StepRecord, Summary, Totals, model_sha256
from gcdl.start import Start
from gcdl.stragglers import delays_at
from gcdl.transport.base import Transport
from gcdl.transport.simulated import SimulatedTransport
from gcdl.types import IntVector, Weights
from gcdl.worker import Worker

if TYPE_CHECKING:
    from gcdl.transport.job import Job

_COLLECTIVE_SECONDS = 120.0
_SECONDS_AFTER_SIGTERM = 10
_SECONDS_AFTER_MASTER = 10.0


class Watcher(Protocol):
    """Is told what happens, to show it."""

    def begin(self, config: Config, folder: Path, done: int) -> None:
        """The run starts; ``done`` steps were done before, by the run that it resumes."""
        ...

    def step(self, record: StepRecord) -> None:
        """A step is done."""
        ...

    def say(self, line: str) -> None:
        """Something the user should know."""
        ...


@dataclass
class StopRequest:
    """Set by Ctrl-C or SIGTERM; the transports look at it while they wait."""

    signal: int = 0

    def __call__(self) -> bool:
        """Say whether the user wants to stop."""
        return self.signal != 0

    def clear(self) -> None:
        """Forget the signal: what it asked for has begun."""
        self.signal = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch SIGINT and SIGTERM in this block."""

        def caught(number: int, frame: object) -> None:
            self.signal = number

        old = {number: signal.signal(number, caught) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def simulate(start: Start, watcher: Watcher) -> Summary:
    """Run the same Master and Workers in this process on a virtual clock. Returns what was written to the run folder.

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
    stop = StopRequest()
    samples = experiment.problem.load(np.arange(experiment.problem.k))
    workers = [_worker(experiment, i, *_row(experiment, i), samples, start.since) for i in range(experiment.n)]
    transport = SimulatedTransport(workers, config.run.seconds_per_shard, stop, checksums=config.run.checksums)
    with stop.listening():
        return _conduct(experiment, transport, start, watcher, began, experiment.problem.evaluator(), stop)


def be_master(job: Job, read: Callable[[], Start], watcher: Watcher, began: float) -> Summary:
    """Be rank 0 of a run over MPI; the others call :func:`be_worker`. The caller then ends the job.

    Parameters
    ----------
    job : all ranks.
    read : reads the config, or the run to resume; an error of it ends all ranks.
    watcher : is told what happens.
    began : when the job was launched, in seconds of ``time.time()``.

    Raises
    ------
    UsageError, TooManyLost, WorkerError, Interrupted
    """
    from gcdl.transport.mpi import MpiTransport

    run = secrets.randbits(63)
    try:
        # What can be wrong is found before any rank imports torch.
        start = read()
        spares = start.config.run.spares
        if job.workers <= spares:
            raise UsageError(f"run.spares: {spares} spares need {spares + 2} ranks at least; there are {job.workers + 1}")
        experiment = Experiment.of(start.config, job.workers - spares).check()
        start.check(experiment)
        evaluator = experiment.problem.evaluator()
        rows = [[part.tolist() for part in _row(experiment, worker)] for worker in range(experiment.n)]
        shared = {
            "run": run,
            "master": this_process(),
            "config": experiment.config.toml(),
            "rows": rows,
            "since": start.since,
            "n": experiment.n,
        }
    except Exception:
        job.broadcast({"run": None}, _COLLECTIVE_SECONDS)
        raise
    job.broadcast(shared, _COLLECTIVE_SECONDS)
    if not job.survives:
        watcher.say("no fault tolerance under this launcher: a killed worker ends the job (mpirun --with-ft ulfm has it)")
    stop = StopRequest()
    transport = MpiTransport(job, run=run, interrupted=stop, say=watcher.say, spares=spares)
    try:
        with stop.listening():
            layout = experiment.problem.layout()
            codec = experiment.compressor.codec(layout)
            transport.start(
                TaskFormat(experiment.n, layout.size, checksums=experiment.config.run.checksums),
                HEADER_BYTES + codec.payload_bytes,
                experiment.config.run.start_timeout,
                state_bytes=codec.state_bytes,
            )
            return _conduct(experiment, transport, start, watcher, began, evaluator, stop, transport.hosts())
    except WorkerLost as lost:
        raise TooManyLost(f"start-up: {lost}") from lost
    finally:
        transport.close()


def be_worker(job: Job) -> None:
    """Be another rank of a run over MPI: serve until the master says that it is over. The caller then ends the job.

    Raises
    ------
    MasterGone : the master is gone, or silent for too long.
    """
    from gcdl.transport.serve import serve

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop_soon)
    shared = job.broadcast(None, _COLLECTIVE_SECONDS)
    if shared["run"] is None:
        return
    master = shared["master"]
    if master["host"] == platform.node():
        # The regular way is to find out from MPI; this is for a worker in the middle of a long pass.
        when_gone(master["pid"], master["born"], lambda: end_soon(_SECONDS_AFTER_MASTER))

    config, n = parse(shared["config"]), int(shared["n"])
    experiment = Experiment.of(config, n)
    if job.rank > n:
        experiment.problem.layout()  # a spare loads what takes long before it is needed

    def prepare(worker: int, since: int) -> Worker:
        shards, weights = (np.array(part) for part in shared["rows"][worker])
        samples = experiment.problem.load(shards)
        built = _worker(experiment, worker, shards, weights, samples, max(since, shared["since"]))
        _limit_threads(experiment)
        return built

    serve(
        job,
        run=shared["run"],
        n=n,
        master_timeout=config.run.master_timeout,
        prepare=prepare,
        checksums=config.run.checksums,
    )


def _stop_soon(number: int, frame: object) -> None:
    """SIGTERM to a worker: the master, which got it too, writes a checkpoint and says STOP; but do not wait for ever."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_SECONDS_AFTER_SIGTERM)


def _row(experiment: Experiment, worker: int) -> tuple[IntVector, Weights]:
    """Return a worker's shards and their entries in B."""
    shards = experiment.code.shards(worker)
    return shards, experiment.code.B[worker, shards]


def _worker(experiment: Experiment, worker: int, shards: IntVector, weights: Weights, samples: Samples, since: int) -> Worker:
    """Return a worker; faults of steps before ``since`` have struck already."""
    layout = experiment.problem.layout()
    return Worker(
        worker,
        experiment.n,
        gradient=experiment.problem.gradient(samples, shards, weights),
        codec=experiment.compressor.codec(layout),
        layout=layout,
        stragglers=experiment.stragglers,
        seed=experiment.config.seed,
        faults=[fault for fault in experiment.faults if fault.worker == worker and fault.step >= since],
    )


def _limit_threads(experiment: Experiment) -> None:
    """Hold the compute libraries that are loaded by now to [run] threads. torch is not loaded for this alone."""
    threadpool_limits(experiment.config.run.threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(experiment.config.run.threads)


@dataclass
class _Progress:
    """What a checkpoint says of the run so far, beside the model: the totals, and what the earlier parts of a run came to."""

    began: float
    transport: Transport
    totals: Totals
    seconds_before: float = 0.0
    control_before: int = 0
    foreign_before: int = 0

    @classmethod
    def after(cls, checkpoint: Checkpoint | None, began: float, transport: Transport) -> _Progress:
        if checkpoint is None:
            return cls(began, transport, Totals())
        before = checkpoint.progress
        totals = Totals.load(before["totals"])
        return cls(began, transport, totals, before["wall_seconds"], before["control_bytes"], before["foreign_messages"])

    def __call__(self) -> dict[str, Any]:
        return {
            "totals": self.totals.dump(),
            "wall_seconds": self.seconds_before + time.time() - self.began,
            "control_bytes": self.control_before + self.transport.traffic.control,
            "foreign_messages": self.foreign_before + self.transport.traffic.foreign,
        }


def _conduct(
    experiment: Experiment,
    transport: Transport,
    start: Start,
    watcher: Watcher,
    began: float,
    evaluator: Evaluator,
    stop: StopRequest,
    hosts: list[str] | None = None,
) -> Summary:
    """Train, evaluate, record, save. The workers are ready; they are stopped here, whatever happens."""
    config = experiment.config
    layout = experiment.problem.layout()
    optimizer = experiment.optimizer.build(experiment.problem.initial_parameters())
    _limit_threads(experiment)
    master = Master(
        transport,
        code=experiment.code,
        codec=experiment.compressor.codec(layout),
        wait=experiment.wait,
        optimizer=optimizer,
        seed=config.seed,
        replicas=experiment.replicas,
        say=watcher.say if hosts is not None else lambda line: None,  # virtual seconds keep nobody waiting
    )
    progress = _Progress.after(start.checkpoint, began, transport)
    totals = progress.totals
    warnings: list[str] = []

    def warn(warning: str | None) -> None:
        if warning is not None:
            warnings.append(warning)
            watcher.say(f"warning: {warning}")

    folder = start.open(experiment, hosts, watcher.say)
    keeper = Keeper(
        start.out, keep=config.run.keep, master=master, progress=progress, decoder=experiment.decoder_name, say=watcher.say
    )
    try:
        if start.checkpoint is not None:
            warn(_restore(master, start.checkpoint))
        watcher.begin(config, start.out, start.step)
        warn(noise_warning(experiment))
        judged: Evaluation | None = None
        for record in master.run(config.steps):
            due = record.step + 1
            if due == config.steps or _every(config.run.eval_every, due):
                judged = evaluator.evaluate(optimizer.parameters, train=due == config.steps)
                record.test_loss, record.test_accuracy = judged.test_loss, judged.test_accuracy
            totals.add(record, delays_at(experiment.stragglers, experiment.n, config.seed, record.step))
            folder.write_step(record)
            watcher.step(record)
            if due < config.steps and _every(config.run.checkpoint_every, due):
                keeper.begin()
            keeper.look()
        if judged is None:  # resumed after its last step
            transport.close()
            judged = evaluator.evaluate(optimizer.parameters, train=True)
        keeper.finish()
        coverage = totals.mean_coverage()
        warn(coverage_warning(coverage, experiment.code))
        so_far = progress()
        summary = Summary(
            steps=totals.steps,
            seconds=totals.seconds,
            wall_seconds=so_far["wall_seconds"],
            wait_for_all_seconds=so_far["wall_seconds"] + totals.extra_seconds,
            final_train_loss=judged.train_loss,
            final_test_loss=judged.test_loss,
            final_test_accuracy=judged.test_accuracy,
            uplink_bytes=totals.uplink_bytes,
            downlink_bytes=totals.downlink_bytes,
            float32_uplink_bytes=(totals.replies + totals.late) * (HEADER_BYTES + 4 * layout.size),
            control_bytes=so_far["control_bytes"],
            late_replies=totals.late,
            timed_out_steps=totals.timed_out,
            foreign_messages=so_far["foreign_messages"],
            lost_workers=totals.lost,
            replaced_workers=master.replaced,
            losses_left=master.losses_left,
            disagreeing_workers=totals.disagreed,
            model_sha256=model_sha256(optimizer.parameters),
            parameters=layout.size,
            workers=experiment.n,
            shard_coverage=[round(float(weight), 6) for weight in coverage],
            resumed=0 if start.past is None else len(start.past.resumed) + 1,
            warnings=warnings,
        )
        folder.write_summary(summary)
        return summary
    except (GcdlError, KeyboardInterrupt):
        stop.clear()  # a second signal interrupts what follows
        if master.steps_done > start.step:
            with suppress(GcdlError):
                master.collect_states()
            keeper.finish()
        if master.steps_done:
            watcher.say(f"checkpoint after {master.steps_done} steps in {start.out / FOLDER}; gcdl resume {start.out} goes on")
        raise
    finally:
        transport.close()
        folder.close()


def _restore(master: Master, checkpoint: Checkpoint) -> str | None:
    """Put a checkpoint's model and workers in place; returns a warning if some compressor's state is not in it.

    Raises
    ------
    UsageError : it is of another model, or of another compressor.
    """
    wanted = (master.optimizer.parameters.shape, master.accepted.shape, {master.states.state_bytes})
    sizes = {saved.size for saved in checkpoint.states.values()} or {master.states.state_bytes}
    if (checkpoint.parameters.shape, checkpoint.accepted.shape, sizes) != wanted:
        raise UsageError(f"the checkpoint of step {checkpoint.step} is of another model or compressor than the config's")
    master.optimizer.parameters[:] = checkpoint.parameters
    master.optimizer.load(checkpoint.optimizer)
    fresh = master.resume(checkpoint.step, checkpoint.accepted, checkpoint.states)
    if not fresh:
        return None
    return (
        f"the checkpoint of step {checkpoint.step} lacks the compressor's state of worker {', '.join(map(str, fresh))}: "
        "it starts afresh, and the run is not that which was never interrupted"
    )


def _every(period: int, steps: int) -> bool:
    return period > 0 and steps % period == 0

"""From a config to a finished run. The one module that knows everyone.

:func:`be_master` and :func:`be_worker` are what MPI ranks call, :func:`simulate` does the same in one process on a virtual
clock; both ways lead to :func:`_conduct`, the only place where a run's records become its files.
"""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gcdl import checkpoint
from gcdl.advice import coverage_warning, limit_warning, noise_warning
from gcdl.config import Config, Experiment, parse
from gcdl.crew import Row, limit_threads, make_crew, make_pace, make_worker, row_of
from gcdl.errors import GcdlError, TooManyLost, UsageError, WorkerLost
from gcdl.interrupt import StopRequest
from gcdl.manifest import manifest
from gcdl.master import Decodes, Master, Steps
from gcdl.messages import HEADER_BYTES, TaskFormat
from gcdl.problems import Evaluator
from gcdl.records import RunFolder, StepRecord, Summary, Totals, check_unused, model_sha256
from gcdl.stragglers import delays_at
from gcdl.timing import NoCodec, NoEvaluator, NoOptimizer
from gcdl.transport.base import Transport
from gcdl.transport.simulated import SimulatedTransport
from gcdl.types import Layout
from gcdl.worker import Worker

if TYPE_CHECKING:
    from gcdl.transport.job import Job

_COLLECTIVE_SECONDS = 120.0
_SECONDS_AFTER_SIGTERM = 10


class Watcher(Protocol):
    """Is told what happens, to show it."""

    def begin(self, config: Config, folder: Path) -> None:
        """The run starts."""
        ...

    def step(self, record: StepRecord) -> None:
        """A step is done."""
        ...

    def say(self, line: str) -> None:
        """Something the user should know."""
        ...


def simulate(config: Config, out: Path, watcher: Watcher, *, timing_only: bool = False) -> Summary:
    """Run the same Master and Workers in this process on a virtual clock. Returns what was written to the run folder.

    ``timing_only``: only the clock runs; no gradient is computed, and nothing of the size of the model is allocated.

    Raises
    ------
    UsageError : the config names no number of workers, a data file is missing, or ``out`` holds a run.
    TooManyLost, WorkerError, Interrupted : the run ended early; a checkpoint is kept.
    """
    began = time.time()
    if config.workers is None:
        raise UsageError("workers: missing; a simulation needs the number of workers (workers = 8)")
    experiment = Experiment.of(config, config.workers).check()
    check_unused(out)
    stop = StopRequest()
    if timing_only:
        d = config.simulate.parameters
        layout = experiment.problem.layout() if d is None else Layout(("parameters",), ((d,),))
        learner = _Learner(NoCodec(), NoOptimizer(), NoEvaluator(), layout, learns=False)
        transport = SimulatedTransport(make_pace(experiment, layout), None, stop)
    else:
        pace = make_pace(experiment, experiment.problem.layout())
        transport = SimulatedTransport(pace, make_crew(experiment), stop)
        learner = _Learner.of(experiment, experiment.problem.evaluator())
    with stop.listening():
        return _conduct(experiment, transport, out, watcher, began, learner)


def be_master(job: Job, read: Callable[[], Config], out: Path, watcher: Watcher, began: float) -> Summary:
    """Be rank 0 of a run over MPI; the others call :func:`be_worker`. The caller then ends the job.

    Parameters
    ----------
    job : all ranks.
    read : reads the config; an error of it ends all ranks.
    out : the run folder.
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
        experiment = Experiment.of(read(), job.workers).check()
        check_unused(out)
        evaluator = experiment.problem.evaluator()
        rows = [row_of(experiment, worker).plain() for worker in range(experiment.n)]
        shared = {"run": run, "config": experiment.config.toml(), "rows": rows}
    except Exception:
        job.broadcast({"run": None}, _COLLECTIVE_SECONDS)
        raise
    job.broadcast(shared, _COLLECTIVE_SECONDS)
    stop = StopRequest()
    transport = MpiTransport(job, run=run, interrupted=stop, say=watcher.say)
    try:
        with stop.listening():
            layout = experiment.problem.layout()
            reply_bytes = HEADER_BYTES + experiment.compressor.codec(layout).payload_bytes
            transport.start(TaskFormat(experiment.n, layout.size), reply_bytes, experiment.config.run.start_timeout)
            return _conduct(experiment, transport, out, watcher, began, _Learner.of(experiment, evaluator), transport.hosts())
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
    worker = job.rank - 1

    config = parse(shared["config"])

    def prepare() -> Worker:
        experiment = Experiment.of(config, job.workers)
        row = Row.of_plain(shared["rows"][worker])
        built = make_worker(experiment, worker, row, experiment.problem.load(row.shards))
        limit_threads(experiment)
        return built

    serve(job, run=shared["run"], master_timeout=config.run.master_timeout, prepare=prepare)


def _stop_soon(number: int, frame: object) -> None:
    """SIGTERM to a worker: the master, which got it too, writes a checkpoint and says STOP; but do not wait for ever."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_SECONDS_AFTER_SIGTERM)


@dataclass(frozen=True)
class _Learner:
    """The master's side of learning; ``learns``: there is a model, to be checkpointed and fingerprinted."""

    codec: Decodes
    optimizer: Steps
    evaluator: Evaluator
    layout: Layout
    learns: bool = True

    @classmethod
    def of(cls, experiment: Experiment, evaluator: Evaluator) -> _Learner:
        """Return that of an experiment."""
        layout = experiment.problem.layout()
        optimizer = experiment.optimizer.build(experiment.problem.initial_parameters())
        return cls(experiment.compressor.codec(layout), optimizer, evaluator, layout)


def _conduct(
    experiment: Experiment,
    transport: Transport,
    out: Path,
    watcher: Watcher,
    began: float,
    learner: _Learner,
    hosts: list[str] | None = None,
) -> Summary:
    """Train, evaluate, record, save. The workers are ready; they are stopped here, whatever happens."""
    config = experiment.config
    optimizer = learner.optimizer
    limit_threads(experiment)
    master = Master(
        transport,
        code=experiment.code,
        codec=learner.codec,
        wait=experiment.wait,
        optimizer=optimizer,
        seed=config.seed,
        say=watcher.say if hosts is not None else lambda line: None,  # virtual seconds keep nobody waiting
    )
    folder = RunFolder(out, config.toml(), manifest(experiment.n + 1, hosts))
    totals = Totals()

    def save() -> None:
        if not learner.learns:
            return
        try:
            checkpoint.save(out, master.steps_done, optimizer.parameters, master.accepted, optimizer.state())
        except OSError as error:  # a full disk does not end a run
            watcher.say(f"checkpoint of step {master.steps_done} not written: {error}")

    warnings: list[str] = []

    def warn(warning: str | None) -> None:
        if warning is not None:
            warnings.append(warning)
            watcher.say(f"warning: {warning}")

    try:
        watcher.begin(config, out)
        warn(noise_warning(experiment) if learner.learns else None)
        for record in master.run(config.steps):
            due = record.step + 1
            if due == config.steps or _every(config.run.eval_every, due):
                judged = learner.evaluator.evaluate(optimizer.parameters, train=due == config.steps)
                record.test_loss, record.test_accuracy = judged.test_loss, judged.test_accuracy
            totals.add(record, delays_at(experiment.stragglers, experiment.n, config.seed, record.step).seconds)
            folder.write_step(record)
            watcher.step(record)
            if due < config.steps and _every(config.run.checkpoint_every, due):
                save()
        save()
        coverage = totals.mean_coverage()
        warn(coverage_warning(coverage, experiment.code))
        shares = _shares(transport, totals.seconds)
        warn(limit_warning(*shares) if shares is not None else None)
        wall_seconds = time.time() - began
        summary = Summary(
            steps=totals.steps,
            seconds=totals.seconds,
            wall_seconds=wall_seconds,
            wait_for_all_seconds=wall_seconds + totals.extra_seconds,
            final_train_loss=judged.train_loss,
            final_test_loss=judged.test_loss,
            final_test_accuracy=judged.test_accuracy,
            uplink_bytes=totals.uplink_bytes,
            downlink_bytes=totals.downlink_bytes,
            float32_uplink_bytes=(totals.replies + totals.late) * (HEADER_BYTES + 4 * learner.layout.size),
            control_bytes=transport.traffic.control,
            late_replies=totals.late,
            timed_out_steps=totals.timed_out,
            foreign_messages=transport.traffic.foreign,
            lost_workers=totals.lost,
            model_sha256=model_sha256(optimizer.parameters) if learner.learns else None,
            parameters=learner.layout.size,
            workers=experiment.n,
            shard_coverage=[round(float(weight), 6) for weight in coverage],
            link_share=shares and shares[0],
            master_share=shares and shares[1],
            warnings=warnings,
        )
        folder.write_summary(summary)
        return summary
    except (GcdlError, KeyboardInterrupt):
        if master.steps_done and learner.learns:
            save()
            watcher.say(f"checkpoint after {master.steps_done} steps in {out / 'checkpoint'}")
        raise
    finally:
        transport.close()
        folder.close()


def _shares(transport: Transport, seconds: float) -> tuple[float, float] | None:
    """Return which shares of the steps' seconds a simulated master's link and its own work took."""
    if not isinstance(transport, SimulatedTransport):
        return None
    total = max(seconds, 1e-300)
    return transport.link_seconds / total, transport.master_seconds / total


def _every(period: int, steps: int) -> bool:
    return period > 0 and steps % period == 0

"""From a config to a finished run. The one module that knows everyone.

:func:`be_master` and :func:`be_worker` are what MPI ranks call, :func:`simulate` does the same in one process on a virtual
clock; both ways lead to :func:`_conduct`, the only place where a run's records become its files.
"""

from __future__ import annotations

import math
import platform
import secrets
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gcdl.advice import coverage_warning, limit_warning, noise_warning, votes_warning
from gcdl.checkpoint import FOLDER, Checkpoint
from gcdl.codes import DECODERS
from gcdl.config import Config, Experiment, parse
from gcdl.crew import (
    Row,
    faults_since,
    limit_threads,
    make_crew,
    make_ends,
    make_pace,
    make_publisher,
    make_worker,
    row_of,
    task_format,
)
from gcdl.downlinks import UNKNOWN, Follower, Publisher, Steps
from gcdl.errors import GcdlError, NonFiniteLoss, TooManyLost, UsageError, WorkerLost
from gcdl.events import Events
from gcdl.interrupt import StopRequest
from gcdl.judge import Judge
from gcdl.keeper import Keeper
from gcdl.launched import Launch
from gcdl.lifeline import end_soon, this_process, when_gone
from gcdl.master import Decodes, Master
from gcdl.messages import HEADER_BYTES
from gcdl.placement import choose_core, leave_core
from gcdl.problems import Evaluation, Evaluator, MadeByHand, Problem
from gcdl.records import MODEL, StepRecord, Summary, Totals, model_sha256
from gcdl.start import Start
from gcdl.stragglers import delays_at
from gcdl.timing import NoCodec, NoEvaluator, NoKeeper, NoOptimizer, NoPublisher
from gcdl.transport.base import Transport
from gcdl.transport.simulated import SimulatedTransport
from gcdl.types import Layout, Vector
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


Run = Generator[StepRecord, None, Summary]
"""A run under way: yields the record of each step, and returns what was written to the run folder.

Closed early it stops the workers, after a checkpoint.
"""


def finish(run: Run) -> Summary:
    """Let a run go on to its end."""
    while True:
        try:
            next(run)
        except StopIteration as done:
            summary: Summary = done.value
            return summary


def simulate(start: Start, watcher: Watcher) -> Summary:
    """As :func:`simulating`, to its end."""
    return finish(simulating(start, watcher))


def simulating(start: Start, watcher: Watcher) -> Run:
    """Run the same Master and Workers in this process on a virtual clock.

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
    if start.timing_only:
        d = config.simulate.parameters
        layout = experiment.problem.layout() if d is None else Layout(("parameters",), ((d,),))
        codec = experiment.compressor.codec(layout)
        publisher = NoPublisher(experiment.downlink, experiment.optimizer, layout.size, codec.payload_bytes, codec.agreed_count)
        learner = _Learner(NoCodec(), NoOptimizer(), NoEvaluator(), publisher, layout, learns=False)
        workers = None
    else:
        layout = experiment.problem.layout()
        learner = _Learner.of(experiment, experiment.problem.evaluator())
        workers = make_crew(experiment)
    transport = SimulatedTransport(
        make_pace(experiment, layout),
        workers,
        stop,
        faults=faults_since(experiment, start.since),
        checksums=config.run.checksums,
        first_version=0 if start.checkpoint is None else UNKNOWN,
    )
    with stop.listening():
        return (yield from _conduct(experiment, transport, start, watcher, began, learner, stop))


def be_master(job: Job, read: Callable[[], Start], watcher: Watcher, began: float) -> Summary:
    """As :func:`leading`, to its end."""
    return finish(leading(job, read, watcher, began))


def leading(job: Job, read: Callable[[], Start], watcher: Watcher, began: float) -> Run:
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
    from gcdl.transport.replacement import Replacements

    run = secrets.randbits(63)
    try:
        # What can be wrong is found before any rank imports torch.
        start = read()
        spares = start.config.run.spares
        if job.workers <= spares:
            raise UsageError(f"run.spares: {spares} spares need {spares + 2} ranks at least; there are {job.workers + 1}")
        experiment = Experiment.of(start.config, job.workers - spares).check()
        start.check(experiment)
        limit_threads(experiment)
        evaluator = experiment.problem.evaluator()
        rows = [row_of(experiment, worker).plain() for worker in range(experiment.n)]
        shared = {
            "run": run,
            "master": this_process(),
            "config": experiment.config.toml(),
            "rows": rows,
            "since": start.since,
            "fresh": start.checkpoint is None,
            "n": experiment.n,
            "shifts": experiment.code.shifts.tolist(),
            "decoder": experiment.decoder_name,
            **_by_hand(experiment.problem),
            "core": choose_core(Launch.read()),
        }
    except Exception:
        job.broadcast({"run": None}, _COLLECTIVE_SECONDS)
        raise
    job.broadcast(shared, _COLLECTIVE_SECONDS)
    if not job.survives:
        watcher.say(
            "no fault tolerance under this launcher: a killed worker ends the job, and gcdl resume goes on from its last "
            "checkpoint (gcdl run, and mpirun --with-ft ulfm, have it with Open MPI 5)"
        )
    stop = StopRequest()
    transport = MpiTransport(
        job,
        run=run,
        interrupted=stop,
        say=watcher.say,
        spares=spares,
        replacements=Replacements(job, start.config.run.replace, shared),
        shared_memory=start.config.run.shared_memory,
    )
    try:
        with stop.listening():
            layout = experiment.problem.layout()
            codec = experiment.compressor.codec(layout)
            transport.start(
                task_format(experiment, codec),
                HEADER_BYTES + codec.payload_bytes,
                experiment.config.run.start_timeout,
                state_bytes=codec.state_bytes,
                whole_bytes=0 if experiment.downlink.replicas else experiment.downlink.size(layout.size, 0, 0, []),
            )
            learner = _Learner.of(experiment, evaluator)
            return (yield from _conduct(experiment, transport, start, watcher, began, learner, stop, transport.hosts()))
    except WorkerLost as lost:
        raise TooManyLost(f"start-up: {lost}") from lost
    finally:
        transport.close()


def be_worker(job: Job, config: Config | None = None, patience: float = _COLLECTIVE_SECONDS) -> bool:
    """Be another rank of a run over MPI: serve until the master says that it is over. The caller then ends the job.

    Parameters
    ----------
    job : all ranks.
    config : of a script, whose objects no text can hold; None: what the master sends.
    patience : how many seconds to wait for the master to begin.

    Returns whether there was a run: the master may have found at once that there can't be one.

    Raises
    ------
    MasterGone : the master is gone, or silent for too long.
    """
    from gcdl.transport.serve import serve

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop_soon)
    shared = job.broadcast(None, patience)
    if shared["run"] is None:
        return False
    master = shared["master"]
    if master["host"] == platform.node():
        # The regular way is to find out from MPI; this is for a worker in the middle of a long pass.
        when_gone(master["pid"], master["born"], lambda: end_soon(_SECONDS_AFTER_MASTER))
        leave_core(shared["core"])

    given, n = config, int(shared["n"])
    config = parse(shared["config"]) if given is None else given.for_workers(n)
    experiment = Experiment.of(config, n)
    problem = experiment.problem
    if isinstance(problem, MadeByHand):
        problem.take_over(shared["model"])
    if job.rank > n:
        experiment.problem.layout()  # a spare loads what takes long before it is needed

    def prepare(worker: int, since: int) -> tuple[Worker, Follower]:
        if given is not None and config.toml() != shared["config"]:
            raise UsageError(
                f"rank {job.rank}: the script asks for another run here than on rank 0; all ranks must make the same"
            )
        if isinstance(problem, MadeByHand) and problem.fingerprint() != shared["problem"]:
            raise UsageError(f"problem: the samples of rank {job.rank} are not those of rank 0; seed what is random in them")
        row = Row.of_plain(shared["rows"][worker])
        limit_threads(experiment)  # drawing data may sum too
        faults = faults_since(experiment, max(since, shared["since"]))
        built = make_worker(experiment, worker, row, experiment.problem.load(row.shards), faults)
        codec = experiment.compressor.codec(built.layout)
        ends = make_ends(experiment, codec, np.array(shared["shifts"]), DECODERS[shared["decoder"]])
        follower = experiment.downlink.follower(ends, fresh=shared["fresh"] and since == 0)
        limit_threads(experiment)
        return built, follower

    serve(
        job,
        run=shared["run"],
        n=n,
        master_timeout=config.run.master_timeout,
        prepare=prepare,
        checksums=config.run.checksums,
    )
    return True


def _by_hand(problem: Problem) -> dict[str, str]:
    """Return what the other ranks have to hear of a problem that does not follow from the config alone."""
    if not isinstance(problem, MadeByHand):
        return {}
    return {"problem": problem.fingerprint(), "model": problem.hand_over()}


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
    downlink: Publisher
    layout: Layout
    learns: bool = True
    save: Callable[[Vector, Path], None] | None = None

    @classmethod
    def of(cls, experiment: Experiment, evaluator: Evaluator) -> _Learner:
        """Return that of an experiment."""
        layout = experiment.problem.layout()
        codec = experiment.compressor.codec(layout)
        optimizer = experiment.optimizer.build(experiment.problem.initial_parameters())
        publisher = make_publisher(experiment, codec, optimizer)
        return cls(codec, optimizer, evaluator, publisher, layout, save=experiment.problem.save)


@dataclass
class _Progress:
    """What a checkpoint says of the run so far, beside the model: the totals, and what the earlier parts of a run came to."""

    began: float
    transport: Transport
    totals: Totals
    before: Mapping[str, Any]

    @classmethod
    def after(cls, checkpoint: Checkpoint | None, began: float, transport: Transport) -> _Progress:
        if checkpoint is None:
            return cls(began, transport, Totals(), {})
        return cls(began, transport, Totals.load(checkpoint.progress["totals"]), checkpoint.progress)

    def __call__(self) -> dict[str, Any]:
        here = {
            "wall_seconds": time.time() - self.began,
            "control_bytes": self.transport.traffic.control,
            "foreign_messages": self.transport.traffic.foreign,
        }
        if isinstance(self.transport, SimulatedTransport):
            here |= {"link_seconds": self.transport.link_seconds, "master_seconds": self.transport.master_seconds}
        return {"totals": self.totals.dump(), **{name: value + self.before.get(name, 0) for name, value in here.items()}}

    def shares(self) -> tuple[float, float] | None:
        """Return which shares of the steps' seconds a simulated master's link and its own work took; None: it is real."""
        so_far = self()
        if "link_seconds" not in so_far:
            return None
        total = max(self.totals.seconds, 1e-300)
        return so_far["link_seconds"] / total, so_far["master_seconds"] / total


def _conduct(
    experiment: Experiment,
    transport: Transport,
    start: Start,
    watcher: Watcher,
    began: float,
    learner: _Learner,
    stop: StopRequest,
    hosts: list[str] | None = None,
) -> Run:
    """Train, evaluate, record, save. The workers are ready; they are stopped here, whatever happens."""
    config = experiment.config
    optimizer = learner.optimizer
    limit_threads(experiment)
    folder = start.open(experiment, hosts, watcher.say)
    master = Master(
        transport,
        code=experiment.code,
        codec=learner.codec,
        wait=experiment.wait,
        optimizer=optimizer,
        downlink=learner.downlink,
        seed=config.seed,
        replicas=experiment.replicas,
        scratch=start.out,
        say=watcher.say if hosts is not None else lambda line: None,  # virtual seconds keep nobody waiting
    )
    progress = _Progress.after(start.checkpoint, began, transport)
    totals = progress.totals
    warnings: list[str] = []

    def warn(warning: str | None) -> None:
        if warning is not None:
            warnings.append(warning)
            watcher.say(f"warning: {warning}")

    events = Events(start.out) if config.run.tensorboard else None
    keeper: Keeper | NoKeeper = NoKeeper()
    if learner.learns:
        keeper = Keeper(
            start.out, keep=config.run.keep, master=master, progress=progress, decoder=experiment.decoder_name, say=watcher.say
        )
    judge = Judge(
        learner.evaluator,
        meanwhile=hosts is not None and config.run.evaluate == "meanwhile",
        limit=lambda: limit_threads(experiment),
    )

    unwritten: deque[StepRecord] = deque()

    def hand_out() -> Generator[StepRecord, None, None]:
        """Yield the oldest record, then write it: with what whoever iterates has added to its metrics."""
        record = unwritten[0]
        try:
            yield record
        finally:
            folder.write_step(unwritten.popleft())
            if events is not None:
                events.add(record.line())
        watcher.step(record)

    try:
        if start.checkpoint is not None:
            warn(_restore(master, start.checkpoint))
        watcher.begin(config, start.out, start.step)
        warn(noise_warning(experiment) if learner.learns else None)
        warn(votes_warning(experiment))
        judged: Evaluation | None = None
        for record in master.run(config.steps):
            due = record.step + 1
            totals.add(record, delays_at(experiment.stragglers, experiment.n, config.seed, record.step).seconds)
            unwritten.append(record)
            if judge.busy:
                judge.settle()
                yield from hand_out()
            if learner.learns and not math.isfinite(record.train_loss):
                yield from hand_out()
                raise NonFiniteLoss(f"step {record.step}: the training loss is {record.train_loss}; {_kept(start.out)}")
            if due == config.steps:
                judged = judge.now(record, optimizer.parameters)
            elif _every(config.run.eval_every, due):
                judge.begin(record, optimizer.parameters)
            if due < config.steps and _every(config.run.checkpoint_every, due):
                keeper.begin(hold=judge.busy)
            if not judge.busy:
                yield from hand_out()
                keeper.look()
        if judged is None:  # resumed after its last step
            transport.close()
            judged = judge.now(None, optimizer.parameters)
        keeper.finish()
        _save(learner, optimizer.parameters, start.out, watcher.say)
        coverage = totals.mean_coverage()
        warn(coverage_warning(coverage, experiment.code))
        so_far = progress()
        shares = progress.shares()
        warn(limit_warning(*shares) if shares is not None else None)
        summary = Summary(
            steps=totals.steps,
            seconds=totals.seconds,
            wall_seconds=so_far["wall_seconds"],
            wait_for_all_seconds=so_far["wall_seconds"] + totals.extra_seconds,
            final_train_loss=judged.train_loss,
            final_test_loss=judged.test_loss,
            final_test_accuracy=judged.test_accuracy,
            final_metrics=dict(judged.metrics),
            uplink_bytes=totals.uplink_bytes,
            downlink_bytes=totals.downlink_bytes,
            uplink_header_bytes=totals.uplink_header_bytes,
            downlink_header_bytes=totals.downlink_header_bytes,
            shared_bytes=totals.shared_bytes,
            clipped_coordinates=totals.clipped,
            resent_models=totals.resent,
            float32_uplink_bytes=(totals.replies + totals.late) * (HEADER_BYTES + 4 * learner.layout.size),
            control_bytes=so_far["control_bytes"],
            late_replies=totals.late,
            timed_out_steps=totals.timed_out,
            foreign_messages=so_far["foreign_messages"],
            lost_workers=totals.lost,
            replaced_workers=master.replaced,
            losses_left=master.losses_left,
            disagreeing_workers=totals.disagreed,
            model_sha256=model_sha256(optimizer.parameters) if learner.learns else None,
            parameters=learner.layout.size,
            workers=experiment.n,
            shard_coverage=[round(float(weight), 6) for weight in coverage],
            link_share=shares and shares[0],
            master_share=shares and shares[1],
            resumed=0 if start.past is None else len(start.past.resumed) + 1,
            warnings=warnings,
        )
        folder.write_summary(summary)
        return summary
    except (GcdlError, KeyboardInterrupt, GeneratorExit) as error:
        stop.clear()  # a second signal interrupts what follows
        judge.drop()
        for record in unwritten:
            folder.write_step(record)
        if isinstance(error, NonFiniteLoss):
            raise
        if master.steps_done > start.step:
            with suppress(GcdlError):
                master.collect_states()
            keeper.finish()
        if newest := keeper.written or (start.step if learner.learns else 0):
            watcher.say(f"checkpoint after {newest} steps in {start.out / FOLDER}; gcdl resume {start.out} goes on")
        if isinstance(error, GeneratorExit):  # whoever iterates has seen enough
            _save(learner, optimizer.parameters, start.out, watcher.say)
        raise
    finally:
        transport.close()
        folder.close()
        if events is not None:
            events.close()


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
    fresh = master.resume(checkpoint.step, checkpoint.accepted, checkpoint.states, checkpoint.downlink)
    if not fresh:
        return None
    return (
        f"the checkpoint of step {checkpoint.step} lacks the compressor's state of worker {', '.join(map(str, fresh))}: "
        "it starts afresh, and the run is not that which was never interrupted"
    )


def _save(learner: _Learner, parameters: Vector, folder: Path, say: Callable[[str], None]) -> None:
    """Write the model for use without gcdl. A full disk does not end a run: the model is in the checkpoint too."""
    if learner.save is None:
        return
    draft = folder / f".{MODEL}.draft"
    try:
        learner.save(parameters, draft)
        draft.replace(folder / MODEL)
    except (OSError, RuntimeError) as error:  # torch has its own way to say that a disk is full
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        say(f"{folder / MODEL}: not written: {why}; the checkpoint has the model")
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _kept(folder: Path) -> str:
    """Say which checkpoint is left."""
    steps = sorted(int(path.stem.removeprefix("step-")) for path in (folder / FOLDER).glob("step-*.npz"))
    found = f"the checkpoint of step {steps[-1]} is kept" if steps else "there is no checkpoint yet ([run] checkpoint_every)"
    return f"{found}; lower optimizer.lr, or set optimizer.clip_norm"


def _every(period: int, steps: int) -> bool:
    return period > 0 and steps % period == 0

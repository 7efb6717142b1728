"""From a config to a finished run. The one module that knows everyone.

:func:`be_master` and :func:`be_worker` are what MPI ranks call, :func:`simulate` does the same in one process on a virtual
clock; both ways lead to :func:`gcdl.training.loop.conduct`.
"""

from __future__ import annotations

import platform
import secrets
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gcdl.codes import DECODERS
from gcdl.config import Config, Experiment, parse
from gcdl.downlinks import UNKNOWN, Follower
from gcdl.errors import TooManyLost, UsageError, WorkerLost
from gcdl.host.cores import choose_core, leave_core
from gcdl.host.launcher_environment import Launch
from gcdl.host.processes import end_soon, this_process, when_gone
from gcdl.host.stop_request import StopRequest
from gcdl.problems import MadeByHand, Problem
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.protocol.worker import Worker
from gcdl.training.build import (
    Row,
    faults_since,
    limit_threads,
    make_crew,
    make_ends,
    make_pace,
    make_worker,
    row_of,
    task_format,
)
from gcdl.training.loop import Learner, Run, Watcher, conduct
from gcdl.training.starting_point import Start
from gcdl.training.summary import Summary
from gcdl.training.timing_only import NoCodec, NoEvaluator, NoOptimizer, NoPublisher
from gcdl.transport.simulated.virtual_clock import SimulatedTransport
from gcdl.types import Layout

if TYPE_CHECKING:
    from gcdl.transport.mpi.job import Job

_COLLECTIVE_SECONDS = 120.0
_SECONDS_AFTER_SIGTERM = 10
_SECONDS_AFTER_MASTER = 10.0


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
        learner = Learner(NoCodec(), NoOptimizer(), NoEvaluator(), publisher, layout, learns=False)
        workers = None
    else:
        layout = experiment.problem.layout()
        learner = Learner.of(experiment, experiment.problem.evaluator())
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
        return (yield from conduct(experiment, transport, start, watcher, began, learner, stop))


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
    from gcdl.transport.mpi.master_end import MpiTransport
    from gcdl.transport.mpi.respawn import Replacements

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
            learner = Learner.of(experiment, evaluator)
            return (yield from conduct(experiment, transport, start, watcher, began, learner, stop, transport.hosts()))
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
    from gcdl.transport.mpi.worker_end import serve

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

"""From ready workers to a finished run folder: the only place where a run's records become its files.

Real or simulated, alone or under MPI, a command or a script: :func:`conduct` is the loop.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gcdl.config import Config, Experiment
from gcdl.downlinks import Publisher, Steps
from gcdl.errors import GcdlError, Interrupted, NonFiniteLoss, UsageError
from gcdl.host.stop_request import StopRequest
from gcdl.problems import Evaluation, Evaluator
from gcdl.protocol.master import Decodes, Master
from gcdl.protocol.step_record import StepRecord
from gcdl.protocol.transport import Transport
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.stragglers import delays_at
from gcdl.training.build import limit_threads, make_publisher
from gcdl.training.checkpoint_file import FOLDER, Checkpoint
from gcdl.training.checkpoint_writer import Keeper
from gcdl.training.evaluation import Judge
from gcdl.training.run_files import MODEL
from gcdl.training.run_warnings import coverage_warning, limit_warning, noise_warning, votes_warning
from gcdl.training.starting_point import Start
from gcdl.training.summary import Summary, Totals, model_sha256
from gcdl.training.tensorboard import Events
from gcdl.training.timing_only import NoKeeper
from gcdl.transport.simulated.virtual_clock import SimulatedTransport
from gcdl.types import Layout, Vector


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


@dataclass(frozen=True)
class Learner:
    """The master's side of learning; ``learns``: there is a model, to be checkpointed and fingerprinted."""

    codec: Decodes
    optimizer: Steps
    evaluator: Evaluator
    downlink: Publisher
    layout: Layout
    learns: bool = True
    save: Callable[[Vector, Path], None] | None = None

    @classmethod
    def of(cls, experiment: Experiment, evaluator: Evaluator) -> Learner:
        """Return that of an experiment."""
        layout = experiment.problem.layout()
        codec = experiment.compressor.codec(layout)
        optimizer = experiment.optimizer.build(experiment.problem.initial_parameters())
        publisher = make_publisher(experiment, codec, optimizer)
        return cls(codec, optimizer, evaluator, publisher, layout, save=experiment.problem.save)


@dataclass
class Progress:
    """What a checkpoint says of the run so far, beside the model: the totals, and what the earlier parts of a run came to."""

    began: float
    transport: Transport
    totals: Totals
    before: Mapping[str, Any]

    @classmethod
    def after(cls, checkpoint: Checkpoint | None, began: float, transport: Transport) -> Progress:
        """Return that of a run that begins, at the time ``began``, with this checkpoint or afresh."""
        if checkpoint is None:
            return cls(began, transport, Totals(), {})
        return cls(began, transport, Totals.load(checkpoint.progress["totals"]), checkpoint.progress)

    def __call__(self) -> dict[str, Any]:
        """Return it, JSON-ready."""
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


def conduct(
    experiment: Experiment,
    transport: Transport,
    start: Start,
    watcher: Watcher,
    began: float,
    learner: Learner,
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
    progress = Progress.after(start.checkpoint, began, transport)
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
        warn(coverage_warning(totals.mean_coverage(), experiment.code))
        shares = progress.shares()
        warn(limit_warning(*shares) if shares is not None else None)
        resumed = 0 if start.past is None else len(start.past.resumed) + 1
        summary = _summary(experiment, learner, master, progress, judged, resumed, warnings)
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
            keeper.finish(interrupted=isinstance(error, Interrupted))
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


def _summary(
    experiment: Experiment,
    learner: Learner,
    master: Master,
    progress: Progress,
    judged: Evaluation,
    resumed: int,
    warnings: list[str],
) -> Summary:
    """Return what the run came to; ``resumed``: how often it was."""
    totals, so_far, shares = progress.totals, progress(), progress.shares()
    return Summary(
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
        model_sha256=model_sha256(learner.optimizer.parameters) if learner.learns else None,
        parameters=learner.layout.size,
        workers=experiment.n,
        shard_coverage=[round(float(weight), 6) for weight in totals.mean_coverage()],
        link_share=shares and shares[0],
        master_share=shares and shares[1],
        resumed=resumed,
        warnings=warnings,
    )


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


def _save(learner: Learner, parameters: Vector, folder: Path, say: Callable[[str], None]) -> None:
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

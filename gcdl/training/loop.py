"""The training loop: step, evaluate, checkpoint, record. One loop for real and simulated runs, for commands and scripts.

A record is handed out (yielded, then written) after its step. If the step is evaluated while the next one is computed, its
record is handed out when the evaluation is done. :meth:`TrainingLoop.run` is the life of a run; what it works with lies in
files of their own.
"""

from __future__ import annotations

import math
import time
import tomllib
from collections.abc import Generator, Iterable
from contextlib import suppress
from typing import Any

import numpy as np

from gcdl.config import Codings, Experiment
from gcdl.errors import GcdlError, Interrupted, MasterLost, NonFiniteLoss, UsageError
from gcdl.host.stop_request import StopRequest
from gcdl.problems import CountsSamples, Evaluation, Problem
from gcdl.protocol.master import Master
from gcdl.protocol.step_record import StepRecord
from gcdl.protocol.transport import Transport
from gcdl.stragglers import delays_at
from gcdl.training.build import limit_threads
from gcdl.training.callbacks import Callback, Callbacks
from gcdl.training.checkpoint_file import FOLDER, newest_step
from gcdl.training.checkpoint_writer import CheckpointWriter
from gcdl.training.evaluation import ConcurrentEvaluator
from gcdl.training.learner import Learner
from gcdl.training.loggers import Logger, TensorBoard
from gcdl.training.loggers.base import Loggers
from gcdl.training.progress import Progress
from gcdl.training.record_stream import RecordStream
from gcdl.training.reserved_room import ReservedRoom
from gcdl.training.run_files import MODEL
from gcdl.training.run_warnings import (
    coverage_warning,
    limit_warning,
    noise_warning,
    problem_warnings,
    timeout_warning,
    votes_warning,
)
from gcdl.training.starting_point import StartingPoint
from gcdl.training.summary import Summary, summarize
from gcdl.training.timing_only import NoCheckpointWriter
from gcdl.training.watcher import Watcher
from gcdl.training.worker_evaluations import WorkerEvaluations
from gcdl.types import Layout

Run = Generator[StepRecord, None, Summary]
"""A run under way: yields the record of each step, and returns what was written to ``summary.json``.

Closed early it is complete all the same, with fewer steps: it stops the workers, and writes model and summary.
"""


def run_to_end(run: Run) -> Summary:
    """Take all records of a run; return its summary."""
    while True:
        try:
            next(run)
        except StopIteration as done:
            summary: Summary = done.value
            return summary


class CallerFailed(BaseException):
    """Thrown into a :data:`Run`: whoever iterates over it has failed, so that it ends early and is no success."""


class TrainingLoop:
    """One run, from workers that are ready to a finished run folder.

    Parameters
    ----------
    experiment : what to run.
    transport : the way to the workers; closed when the run ends, however it does.
    start : where the run begins.
    watcher : is told what happens.
    learner : the master's side of learning.
    stop : whether the user wants to stop.
    began : when the run was launched, in seconds of ``time.time()``.
    hosts : of each worker; None: all are simulated.
    links : to other hosts, as measured; None: not measured.
    evaluations : takes in what the workers evaluate; None: they evaluate nothing.
    callbacks : are told what happens, and may stop the run.
    loggers : get each step's figures.
    send_ahead : a step's tasks go out before the record of the step before is handed out, and checkpoints are written by a
        thread. So the workers compute meanwhile. Not for a run that its caller may leave at a record: those tasks would be
        wasted, and the caller may look at the checkpoint.
    """

    def __init__(
        self,
        experiment: Experiment,
        transport: Transport,
        start: StartingPoint,
        watcher: Watcher,
        learner: Learner,
        stop: StopRequest,
        *,
        began: float,
        hosts: list[str] | None = None,
        links: list[dict[str, Any]] | None = None,
        evaluations: WorkerEvaluations | None = None,
        callbacks: Iterable[Callback] = (),
        loggers: Iterable[Logger] = (),
        send_ahead: bool = False,
    ) -> None:
        limit_threads(experiment)
        self._experiment = experiment
        self._transport = transport
        self._start = start
        self._watcher = watcher
        self._learner = learner
        self._stop = stop
        self._ahead = send_ahead
        self._simulated = hosts is None
        self._steps = experiment.config.steps
        self._options = experiment.config.run
        ran = {} if hosts is None else {"startup_seconds": round(time.time() - began, 3), "links": links}
        self._folder = start.open(experiment, hosts, watcher.say, learner.masters(experiment), ran)
        self._master = Master(
            transport,
            code=experiment.code,
            slices=learner.slices,
            wait=experiment.wait,
            state_bytes=learner.state_bytes,
            replicas=experiment.replicas,
            recoder=Codings(experiment).recoder(watcher.say, hosts),
            scratch=start.out,
            say=watcher.say if hosts is not None else lambda line: None,  # virtual seconds keep nobody waiting
        )
        self._progress = Progress.after(start.checkpoint, began, transport)
        self._callbacks = Callbacks(callbacks)
        self._loggers = Loggers([*loggers, *([TensorBoard()] if self._options.tensorboard else [])], watcher.say)
        self._records = RecordStream(self._folder, self._callbacks, self._loggers, watcher)
        self._room = ReservedRoom(start.out, _result_bytes(learner.layout) if learner.learns else 0, watcher.say)
        self._checkpoints = self._checkpoint_writer()
        self._evaluator = ConcurrentEvaluator(
            learner.evaluator,
            concurrent=hosts is not None and self._options.evaluate == "meanwhile",
            limit=lambda: limit_threads(experiment),
            workers=evaluations,
        )
        self._warnings: list[str] = []
        self._final: Evaluation | None = None
        """The evaluation of the last step's model."""
        self._diverged = False
        """Whether the training loss is no number any more."""

    def run(self) -> Run:
        """Train, evaluate, checkpoint, record. The workers are stopped at the end, whatever happens.

        Raises
        ------
        TooManyLost, WorkerError, NonFiniteLoss, Interrupted : the run ended early; a checkpoint is kept.
        UsageError : the trained model, or the record of the run, could not be written.
        """
        try:
            self._begin()
            for record in self._master.run(self._steps, self._send_ahead):
                self._count(record)
                yield from self._hand_out_evaluated()
                yield from self._refuse_nonfinite(record)
                self._evaluate(record)
                self._checkpoint(record)
                if not self._evaluator.busy:
                    yield from self._records.hand_out()
                    self._checkpoints.look()
                if self._callbacks.stop:
                    break
            yield from self._hand_out_evaluated()
        except (GcdlError, KeyboardInterrupt, CallerFailed) as error:
            self._stop_early(error)
            raise
        except GeneratorExit:  # whoever iterates has seen enough
            self._evaluator.settle()
            self._records.flush()
            if not self._diverged:
                self._finish("by the loop")
            raise
        else:
            return self._finish("by a callback")
        finally:
            self._close()

    def _begin(self) -> None:
        """Put a checkpoint's model and workers in place, and warn of what can be known before the first step."""
        for warning in self._start.restore(self._master, self._experiment):
            self._warn(warning)
        config, out, done = self._experiment.config, self._start.out, self._start.step
        self._loggers.begin(tomllib.loads(config.toml()), out)
        self._watcher.begin(config, out, done)
        self._callbacks.begin(config, out, done)
        if self._learner.learns:
            self._warn(noise_warning(self._experiment))
        self._warn(votes_warning(self._experiment))
        if (risen := self._progress.totals.trend.risen) is not None:
            self._warnings.append(risen)  # in an earlier part of the run
        for warning in problem_warnings(self._experiment) if self._learner.learns else []:
            self._warn(warning)

    def _send_ahead(self, record: StepRecord) -> bool:
        """Say whether the next tasks may go out before this record is handed out.

        If a checkpoint is due, the workers are asked for their states here: that must precede the next tasks.
        """
        if self._learner.learns and not math.isfinite(record.train_loss):
            return False
        done = record.step + 1
        if _is_due(self._options.checkpoint_every, done):
            self._checkpoints.ask()
        return self._ahead and (self._evaluator.concurrent or not _is_due(self._options.eval_every, done))

    def _count(self, record: StepRecord) -> None:
        """Add a step to the totals, and hold its record until it may be handed out."""
        experiment = self._experiment
        delays = delays_at(experiment.stragglers, experiment.n, experiment.config.seed, record.step)
        self._progress.totals.add(record, delays.seconds)
        self._records.hold(record)
        if self._learner.learns:
            record.samples = _samples(experiment.problem, record)
            self._warn(self._progress.totals.trend.add(record.step, record.train_loss))
        if self._simulated and record.timed_out and self._progress.totals.timed_out == 1:
            self._warn(timeout_warning(experiment, record.step, len(record.replies)))

    def _hand_out_evaluated(self) -> Generator[StepRecord, None, None]:
        """Wait for the evaluation that went on during this step, and hand out the record that it belongs to."""
        if self._evaluator.busy:
            self._evaluator.settle()
            yield from self._records.hand_out()

    def _refuse_nonfinite(self, record: StepRecord) -> Generator[StepRecord, None, None]:
        """Hand out a record whose training loss is no number, and end the run: no checkpoint of that model is written.

        Raises
        ------
        NonFiniteLoss : it is none.
        """
        if not self._learner.learns or math.isfinite(record.train_loss):
            return
        self._diverged = True
        yield from self._records.hand_out()
        self._checkpoints.settle()
        step = newest_step(self._start.out)
        kept = f"the checkpoint of step {step} is kept" if step else "there is no checkpoint yet ([run] checkpoint_every)"
        raise NonFiniteLoss(
            f"step {record.step}: the training loss is {record.train_loss}; {kept}; lower optimizer.lr, or set "
            "optimizer.clip_norm"
        )

    def _evaluate(self, record: StepRecord) -> None:
        """Evaluate the model if that is due after this step. The last model is evaluated on the training set too.

        Not if the user wants to stop: then the run is about to be interrupted, be it in its last step.
        """
        done = record.step + 1
        if done == self._steps and self._stop():
            return
        if done == self._steps:
            self._final = self._evaluator.now(record, self._learner.parameters())
        elif _is_due(self._options.eval_every, done):
            self._evaluator.begin(record, self._learner.parameters())

    def _checkpoint(self, record: StepRecord) -> None:
        """Begin a checkpoint if one is due after this step. The last one is left to :meth:`_finish`."""
        done = record.step + 1
        if done < self._steps and _is_due(self._options.checkpoint_every, done):
            self._checkpoints.begin(hold=self._evaluator.busy)

    def _finish(self, stopped_by: str) -> Summary:
        """Write what a run leaves: the last checkpoint, the model, the summary.

        ``stopped_by``: who stopped the run, if it has fewer steps than its config says.
        """
        stopped = stopped_by if self._master.steps_done < self._steps else None
        if stopped is not None:
            with suppress(GcdlError):
                self._master.collect_states()
        if self._final is None:  # stopped, or resumed after its last step
            self._transport.close()
            self._final = self._evaluator.now(None, self._learner.parameters())
        self._checkpoints.finish()
        self._room.release()
        self._save_model()
        self._warn_of_the_outcome(self._final)
        summary = summarize(
            self._experiment,
            self._learner,
            self._master,
            self._progress,
            self._final,
            resumed=0 if self._start.past is None else len(self._start.past.resumed) + 1,
            warnings=self._warnings,
            stopped=stopped,
        )
        self._folder.write_summary(summary)
        self._loggers.end(summary.fields())
        self._callbacks.end(summary)
        return summary

    def _save_model(self) -> None:
        """Write the model for use without gcdl.

        Raises
        ------
        UsageError : it can't be written, and no checkpoint has it either.
        """
        why = self._learner.write_model(self._start.out)
        if why is None:
            return
        path, done = self._start.out / MODEL, self._master.steps_done
        newest = self._checkpoints.written or self._start.step
        if newest == done:
            self._watcher.say(f"{path}: not written: {why}; the checkpoint of step {done} has the model")
            return
        kept = f"the newest checkpoint is of step {newest}" if newest else "there is no checkpoint"
        raise UsageError(f"{path}: cannot be written: {why}; {kept} of {done}: {self._start.way_on}")

    def _warn_of_the_outcome(self, final: Evaluation) -> None:
        """Warn of what makes the figures of a run that is over worse than they need be."""
        if self._learner.learns:
            self._warn(self._progress.totals.trend.end(final.train_loss))
        self._warn(coverage_warning(self._progress.totals.mean_coverage(), self._experiment.code))
        shares = self._progress.master_shares()
        self._warn(None if shares is None else limit_warning(*shares, divisible=self._learner.divisible(self._experiment)))

    def _stop_early(self, error: BaseException) -> None:
        """Write the records that are held, and a checkpoint, and say how to go on from it."""
        self._stop.clear()  # a second signal interrupts what follows
        self._evaluator.drop()
        self._records.flush()
        if self._diverged:
            return
        if self._master.steps_done > self._start.step and not isinstance(error, MasterLost):
            with suppress(GcdlError):
                self._master.collect_states()
            self._checkpoints.finish(interrupted=isinstance(error, Interrupted))
        if newest := self._checkpoints.written or (self._start.step if self._learner.learns else 0):
            folder = self._start.out / FOLDER
            self._watcher.say(f"checkpoint after {newest} steps in {folder}; {self._start.way_on}")

    def _close(self) -> None:
        """Stop the workers and close the files."""
        self._transport.close()
        self._checkpoints.settle()
        self._room.release()
        self._folder.close()
        self._loggers.end(None)

    def _warn(self, warning: str | None) -> None:
        """Say a warning, and note it for the summary; None: there is none."""
        if warning is not None:
            self._warnings.append(warning)
            self._watcher.say(f"warning: {warning}")

    def _checkpoint_writer(self) -> CheckpointWriter | NoCheckpointWriter:
        if not self._learner.learns:
            return NoCheckpointWriter()
        return CheckpointWriter(
            self._start.out,
            keep=self._options.keep,
            master=self._master,
            progress=self._progress.dump,
            decoder=self._experiment.decoder_name,
            say=self._watcher.say,
            written_to=self._callbacks.checkpoint,
            meanwhile=self._ahead,
        )


def _result_bytes(layout: Layout) -> int:
    """Return how much room to keep for a run's model, summary, and the last lines of its record."""
    return 4 * layout.size + 1024 * len(layout.names) + (64 << 10)


def _is_due(period: int, steps: int) -> bool:
    return period > 0 and steps % period == 0


def _samples(problem: Problem, record: StepRecord) -> int | None:
    """Return how many samples are in a step's decoded gradient; None: the problem does not count them."""
    if not isinstance(problem, CountsSamples):
        return None
    return int(problem.samples_used(record.step)[np.abs(record.coverage) > 1e-9].sum())

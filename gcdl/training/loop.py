"""The training loop: step, evaluate, checkpoint, record. One loop for real and simulated runs, for commands and scripts.

A record is handed out (yielded, then written) after its step; that of a step whose evaluation goes on meanwhile, when the
evaluation is done. :meth:`TrainingLoop.run` reads as the life of a run; what it works with lies in files of their own.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator
from contextlib import suppress

import numpy as np

from gcdl.config import Experiment
from gcdl.errors import GcdlError, Interrupted, NonFiniteLoss
from gcdl.host.stop_request import StopRequest
from gcdl.problems import CountsSamples, Evaluation, Problem
from gcdl.protocol.master import Master
from gcdl.protocol.step_record import StepRecord
from gcdl.protocol.transport import Transport
from gcdl.stragglers import delays_at
from gcdl.training.build import limit_threads
from gcdl.training.checkpoint_file import FOLDER, newest_step
from gcdl.training.checkpoint_writer import CheckpointWriter
from gcdl.training.evaluation import ConcurrentEvaluator
from gcdl.training.learner import Learner
from gcdl.training.loggers.tensorboard import TensorBoardWriter
from gcdl.training.progress import Progress
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

Run = Generator[StepRecord, None, Summary]
"""A run under way: yields the record of each step, and returns what was written to ``summary.json``.

Closed early it stops the workers, after a checkpoint.
"""


def run_to_end(run: Run) -> Summary:
    """Take all records of a run; return its summary."""
    while True:
        try:
            next(run)
        except StopIteration as done:
            summary: Summary = done.value
            return summary


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
    ) -> None:
        limit_threads(experiment)
        self._experiment = experiment
        self._transport = transport
        self._start = start
        self._watcher = watcher
        self._learner = learner
        self._stop = stop
        self._simulated = hosts is None
        self._steps = experiment.config.steps
        self._options = experiment.config.run
        self._folder = start.open(experiment, hosts, watcher.say)
        self._master = Master(
            transport,
            code=experiment.code,
            slices=learner.slices,
            wait=experiment.wait,
            state_bytes=learner.state_bytes,
            replicas=experiment.replicas,
            scratch=start.out,
            say=watcher.say if hosts is not None else lambda line: None,  # virtual seconds keep nobody waiting
        )
        self._progress = Progress.after(start.checkpoint, began, transport)
        self._tensorboard = TensorBoardWriter(start.out) if self._options.tensorboard else None
        self._checkpoints = self._checkpoint_writer()
        self._evaluator = ConcurrentEvaluator(
            learner.evaluator,
            concurrent=hosts is not None and self._options.evaluate == "meanwhile",
            limit=lambda: limit_threads(experiment),
        )
        self._warnings: list[str] = []
        self._held: deque[StepRecord] = deque()
        """Records not written yet, oldest first: more than one only while an evaluation goes on."""
        self._final: Evaluation | None = None
        """The evaluation of the last step's model."""

    def run(self) -> Run:
        """Train, evaluate, checkpoint, record. The workers are stopped at the end, whatever happens.

        Raises
        ------
        TooManyLost, WorkerError, NonFiniteLoss, Interrupted : the run ended early; a checkpoint is kept.
        """
        try:
            self._begin()
            for record in self._master.run(self._steps):
                self._count(record)
                yield from self._hand_out_evaluated()
                yield from self._refuse_nonfinite(record)
                self._evaluate(record)
                self._checkpoint(record)
                if not self._evaluator.busy:
                    yield from self._hand_out()
                    self._checkpoints.look()
            return self._finish()
        except (GcdlError, KeyboardInterrupt, GeneratorExit) as error:
            self._stop_early(error)
            raise
        finally:
            self._close()

    def _begin(self) -> None:
        """Put a checkpoint's model and workers in place, and warn of what can be known before the first step."""
        self._warn(self._start.restore(self._master))
        self._watcher.begin(self._experiment.config, self._start.out, self._start.step)
        if self._learner.learns:
            self._warn(noise_warning(self._experiment))
        self._warn(votes_warning(self._experiment))
        if (risen := self._progress.totals.trend.risen) is not None:
            self._warnings.append(risen)  # in an earlier part of the run
        for warning in problem_warnings(self._experiment) if self._learner.learns else []:
            self._warn(warning)

    def _count(self, record: StepRecord) -> None:
        """Add a step to the totals, and hold its record until it may be handed out."""
        experiment = self._experiment
        delays = delays_at(experiment.stragglers, experiment.n, experiment.config.seed, record.step)
        self._progress.totals.add(record, delays.seconds)
        self._held.append(record)
        if self._learner.learns:
            record.samples = _samples(experiment.problem, record)
            self._warn(self._progress.totals.trend.add(record.step, record.train_loss))
        if self._simulated and record.timed_out and self._progress.totals.timed_out == 1:
            self._warn(timeout_warning(experiment, record.step, len(record.replies)))

    def _hand_out_evaluated(self) -> Generator[StepRecord, None, None]:
        """Wait for the evaluation that went on during this step, and hand out the record that it belongs to."""
        if self._evaluator.busy:
            self._evaluator.settle()
            yield from self._hand_out()

    def _hand_out(self) -> Generator[StepRecord, None, None]:
        """Yield the oldest record, then write it: with what whoever iterates has added to its metrics."""
        record = self._held[0]
        try:
            yield record
        finally:
            self._folder.write_step(self._held.popleft())
            if self._tensorboard is not None:
                self._tensorboard.add(record.line())
        self._watcher.step(record)

    def _refuse_nonfinite(self, record: StepRecord) -> Generator[StepRecord, None, None]:
        """Hand out a record whose training loss is no number, and end the run: no checkpoint of that model is written.

        Raises
        ------
        NonFiniteLoss : it is none.
        """
        if not self._learner.learns or math.isfinite(record.train_loss):
            return
        yield from self._hand_out()
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

    def _finish(self) -> Summary:
        """Write what a run that did all its steps leaves: the last checkpoint, the model, the summary."""
        if self._final is None:  # resumed after its last step
            self._transport.close()
            self._final = self._evaluator.now(None, self._learner.parameters())
        self._checkpoints.finish()
        self._learner.write_model(self._start.out, self._watcher.say)
        if self._learner.learns:
            self._warn(self._progress.totals.trend.end(self._final.train_loss))
        self._warn(coverage_warning(self._progress.totals.mean_coverage(), self._experiment.code))
        shares = self._progress.master_shares()
        self._warn(None if shares is None else limit_warning(*shares))
        summary = summarize(
            self._experiment,
            self._learner,
            self._master,
            self._progress,
            self._final,
            resumed=0 if self._start.past is None else len(self._start.past.resumed) + 1,
            warnings=self._warnings,
        )
        self._folder.write_summary(summary)
        return summary

    def _stop_early(self, error: BaseException) -> None:
        """Write the records that are held, and a checkpoint, and say where the run can be gone on with."""
        self._stop.clear()  # a second signal interrupts what follows
        self._evaluator.drop()
        for record in self._held:
            self._folder.write_step(record)
        if isinstance(error, NonFiniteLoss):
            return
        if self._master.steps_done > self._start.step:
            with suppress(GcdlError):
                self._master.collect_states()
            self._checkpoints.finish(interrupted=isinstance(error, Interrupted))
        out = self._start.out
        if newest := self._checkpoints.written or (self._start.step if self._learner.learns else 0):
            self._watcher.say(f"checkpoint after {newest} steps in {out / FOLDER}; gcdl resume {out} goes on")
        if isinstance(error, GeneratorExit):  # whoever iterates has seen enough
            self._learner.write_model(out, self._watcher.say)

    def _close(self) -> None:
        """Stop the workers and close the files."""
        self._transport.close()
        self._folder.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

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
        )


def _is_due(period: int, steps: int) -> bool:
    return period > 0 and steps % period == 0


def _samples(problem: Problem, record: StepRecord) -> int | None:
    """Return how many samples are in a step's decoded gradient; None: the problem does not count them."""
    if not isinstance(problem, CountsSamples):
        return None
    return int(problem.samples_used(record.step)[np.abs(record.coverage) > 1e-9].sum())

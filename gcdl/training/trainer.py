"""Training from a script: :class:`Trainer`. The same script runs alone, and on all ranks of ``mpirun``.

Alone, its workers are simulated in this process, on a virtual clock. Under ``mpirun`` rank 0 is the master: it iterates over
the records. On the other ranks :meth:`Trainer.fit` serves as a worker until the run is over, and then yields nothing; when it
returns, every rank has the trained model, and goes on with the script. An error of the run is raised on all ranks.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcdl.codes import GradientCode
from gcdl.compressors import Compressor
from gcdl.config import SECTIONS, Config, RunOptions, SimulateOptions
from gcdl.config.factories import Given
from gcdl.config.local_optimizer import with_local_optimizer
from gcdl.config.schema import Choice, validate
from gcdl.config.script_arguments import Table, choice_of, count_of, table_of
from gcdl.config.typed_tables import (
    CodeKind,
    CodeTable,
    CompressorKind,
    CompressorTable,
    DownlinkKind,
    DownlinkTable,
    OptimizerKind,
    OptimizerTable,
    ProblemKind,
    ProblemTable,
    RunTable,
    SimulateTable,
    StragglersKind,
    StragglersTable,
    WaitKind,
    WaitTable,
)
from gcdl.errors import ConfigError, TooManyLost, UsageError
from gcdl.host import excepthook
from gcdl.optimizers import OptimizerRecipe
from gcdl.problems import Evaluation, Problem, TorchProblem
from gcdl.protocol.step_record import StepRecord
from gcdl.protocol.wait_rules import WaitRule
from gcdl.stragglers import AnyModel
from gcdl.training.callbacks import Callback
from gcdl.training.loggers import Logger
from gcdl.training.roles.master import mpi_run
from gcdl.training.roles.simulation import simulated_run
from gcdl.training.run_files import CONFIG
from gcdl.training.run_folder import unused
from gcdl.training.script_ranks import hand_out, lead, script_job, serve
from gcdl.training.script_watchers import LogWatcher, RunWatcher, TerminalWatcher, on_a_terminal
from gcdl.training.starting_point import StartingPoint, go_on
from gcdl.training.step_iterator import StepIterator
from gcdl.training.summary import Summary
from gcdl.training.supervision import release, supervised
from gcdl.types import Vector

if TYPE_CHECKING:
    from torch import nn

    from gcdl.optimizers.flat import MakeOptimizer
    from gcdl.problems.torch_problem import BoundProblem

_ALONE = 4
"""Workers of a simulation, where nobody says how many."""


class Trainer:
    """Trains a problem with workers that do not all answer in time.

    Most arguments are tables of the config (see configs/README.md): a kind, a table, or an object.

    Parameters
    ----------
    problem : a :class:`gcdl.TorchProblem`; a function of (k, seed) that returns a :class:`gcdl.problems.Problem`; or a table.
    workers : n. Under mpirun the number of ranks says it (ranks - 1, with one master and no spares) where it is left out
        here; alone, 4 when left out.
    shards : k; n when left out.
    code : a table, a :class:`gcdl.GradientCode`, or a function of (n, k) that returns one.
    compressor, wait, stragglers : a table, or an object of their protocols.
    optimizer : a table, a :class:`gcdl.TorchOptimizer`, or a function that makes a torch optimizer for a list of parameters.
    downlink : a table.
    seed : of everything that is random.
    run, simulate : the tables of these names: ``run={"eval_every": 10}``.
    out : the run folder; ``runs/SCRIPT-TIME`` when left out.
    show : show the progress; when left out, if this is a terminal. Under mpirun no rank can tell, and nothing is shown.
    callbacks : hear of what happens, and may stop a run: :class:`gcdl.Callback`.
    loggers : get each step's figures: :mod:`gcdl.loggers`.

    Attributes
    ----------
    out : the folder of the last run; on rank 0.
    summary : what the last run came to, a :class:`gcdl.Summary`; None before its end, and on the other ranks.

    Raises
    ------
    ConfigError : a key, a value, or an object that is none of the above; its message names the argument.

    >>> import numpy as np, torch, gcdl, tempfile
    >>> x = np.linspace(-1.0, 1.0, 64).reshape(-1, 1)
    >>> problem = gcdl.TorchProblem(lambda: torch.nn.Linear(1, 1), torch.nn.functional.mse_loss, (x, 3.0 * x), batch_size=0)
    >>> code = {"kind": "fractional_repetition", "stragglers": 1}
    >>> trainer = gcdl.Trainer(problem, workers=4, code=code, optimizer={"lr": 0.5}, out=tempfile.mkdtemp())
    >>> losses = [record.train_loss for record in trainer.fit(20)]
    >>> len(losses), losses[-1] < 0.1 * losses[0], trainer.summary.steps
    (20, True, 20)
    """

    def __init__(
        self,
        problem: TorchProblem | Callable[..., Problem] | ProblemKind | ProblemTable | Table,
        *,
        workers: int | None = None,
        shards: int | None = None,
        code: GradientCode | Callable[..., GradientCode] | CodeKind | CodeTable | Table = "uncoded",
        compressor: Compressor | Callable[..., Compressor] | CompressorKind | CompressorTable | Table = "identity",
        wait: WaitRule | Callable[..., WaitRule] | WaitKind | WaitTable | Table = "first_replies",
        stragglers: AnyModel | Callable[..., AnyModel] | StragglersKind | StragglersTable | Table = "none",
        optimizer: OptimizerRecipe | MakeOptimizer | OptimizerKind | OptimizerTable | Table = "sgd",
        downlink: DownlinkKind | DownlinkTable | Table = "model",
        seed: int = 0,
        run: RunTable | Mapping[str, Any] | None = None,
        simulate: SimulateTable | Mapping[str, Any] | None = None,
        out: str | os.PathLike[str] | None = None,
        show: bool | None = None,
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Logger] = (),
    ) -> None:
        excepthook.install()
        if isinstance(problem, TorchProblem):
            problem = with_local_optimizer(problem)
        self._given = problem if isinstance(problem, TorchProblem) else None
        self._bound: BoundProblem | None = None
        if isinstance(code, GradientCode) and shards is None:
            shards = code.k
        given = {"code": code, "compressor": compressor, "wait": wait, "stragglers": stragglers, "optimizer": optimizer}
        choices = {name: choice_of(name, value) for name, value in given.items()}
        self._begin(
            Config(
                seed=count_of("seed", seed, 0),
                workers=None if workers is None else count_of("workers", workers, 1),
                steps=1,
                run=validate(RunOptions, run or {}, "run"),
                simulate=validate(SimulateOptions, simulate or {}, "simulate"),
                choices={
                    "problem": self._problem(problem, shards),
                    **choices,
                    "downlink": SECTIONS["downlink"].check(table_of(downlink)),
                },
            ),
            out,
            show,
            callbacks,
            loggers,
        )

    @classmethod
    def of(
        cls,
        config: Config,
        *,
        out: str | os.PathLike[str] | None = None,
        show: bool | None = None,
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Logger] = (),
    ) -> Trainer:
        """Return the trainer of a config (:func:`gcdl.load`); its ``steps`` are what :meth:`fit` does when nothing is said."""
        excepthook.install()
        trainer = cls.__new__(cls)
        trainer._given = trainer._bound = None
        trainer._begin(config, out, show, callbacks, loggers)
        return trainer

    def _begin(
        self,
        config: Config,
        out: str | os.PathLike[str] | None,
        show: bool | None,
        callbacks: Sequence[Callback],
        loggers: Sequence[Logger],
    ) -> None:
        self.config = config
        self.summary: Summary | None = None
        self.out = self._first_out = Path() if out is None else Path(out)
        self._named = out is not None
        self._last_out: Path | None = None
        """The folder of the last run that has begun here. The next one has a folder of its own."""
        self._show = on_a_terminal() if show is None else show
        self._callbacks = tuple(callbacks)
        self._loggers = tuple(loggers)

    @property
    def is_master(self) -> bool:
        """Whether this process is rank 0, or alone: the one that iterates over the records."""
        job = script_job()
        return job is None or job.rank == 0

    def __repr__(self) -> str:
        kinds = ", ".join(f"{name} {choice.kind}" for name, choice in self.config.choices.items() if name != "problem")
        workers = self.config.workers if self.config.workers is not None else "as many as there are"
        problem = repr(self._given) if self._given is not None else self.config.choices["problem"].kind
        if self.summary is None:
            state = "no run yet" if self._last_out is None else "no run is finished"
        else:
            state = f"{self.out}: {self.summary.steps} steps, training loss {self.summary.final_train_loss:.4g}"
        return f"Trainer of {problem.splitlines()[0]}, workers: {workers}\n  {kinds}\n  {state}"

    @property
    def model(self) -> nn.Module:
        """The ``torch.nn.Module`` that is trained.

        While a run goes on it has the parameters of the last evaluation; after it, the trained ones.

        Raises
        ------
        UsageError : the problem is not a TorchProblem: then see model.pt in the run folder.
        """
        return self._torch_problem("model").module.module

    def evaluate(self, *, train: bool = False) -> Evaluation:
        """Evaluate the model as it is now on the test set; on the whole training set too if ``train``. On any rank.

        Raises
        ------
        UsageError : the problem is not a TorchProblem.
        """
        bound = self._torch_problem("evaluate")
        return bound.evaluator().evaluate(bound.module.gather(), train=train)

    def predict(self, data: Any) -> Any:
        """Return the model's outputs, on the CPU, in evaluation mode. On any rank.

        Parameters
        ----------
        data : inputs without targets: an array or tensor with a row a sample, a tuple of them (several inputs), or a dict of
            them (given by name). Or a map-style Dataset or list, whose samples are as the training set's.

        Raises
        ------
        UsageError : the problem is not a TorchProblem.
        """
        from gcdl.problems.prediction import predict

        bound = self._torch_problem("predict")
        return predict(bound.context, data, bound.given.collate_fn)

    def _torch_problem(self, what: str) -> BoundProblem:
        """Return the TorchProblem with its model: that of the last run; before the first, as it was given."""
        if self._given is None:
            raise UsageError(f"Trainer.{what}: only for a gcdl.TorchProblem")
        if self._bound is None:
            given = replace(self._given, local_steps=1)  # of no use here
            self._bound = given.bind(self.config.choices["problem"].values["shards"] or 1, self.config.seed)
        return self._bound

    def fit(self, steps: int | None = None, *, resume: bool = False) -> StepIterator:
        """Train for ``steps`` steps and yield the record of each, once it is decoded and, where that is due, evaluated.

        Nothing happens until the records are iterated over. Leaving the loop by ``break`` ends the run as a success: it has its
        checkpoint, its model, and a summary that says ``stopped``. Leaving it by an exception ends it after a checkpoint.
        Write ``for record in trainer.fit(100)``: a name for what fit() returns keeps the run open until that name is gone.

        A second call is a run of its own, in another folder (``out-2``). It starts from the model as it is then; from a fresh
        one if the problem was given a function.

        Parameters
        ----------
        steps : of the whole run; what the config says when left out.
        resume : go on with the last run in ``out``, if there is one, from its newest good checkpoint: to the same model, to
            the bit.

        Raises
        ------
        ConfigError, UsageError, DataError : the run can't begin.
        TooManyLost, WorkerError, NonFiniteLoss, Interrupted : it ended early; a checkpoint is kept.
        """
        # Raised here, not when the first record is asked for.
        config = self.config if steps is None else replace(self.config, steps=count_of("steps", steps, 1))
        if resume and not self._named:
            raise UsageError("fit(resume=True): name the run folder: Trainer(..., out=DIR)")
        return StepIterator(self._fit(config, resume))

    def run(self, steps: int | None = None, *, resume: bool = False) -> Summary | None:
        """As :meth:`fit`, to the end; returns what the run came to, None on ranks other than 0."""
        for _ in self.fit(steps, resume=resume):
            pass
        return self.summary

    def _fit(self, config: Config, resume: bool) -> Generator[StepRecord, None, None]:
        supervision = supervised()
        if supervision is not None:
            config = replace(config, run=config.run.model_copy(update=supervision.run))
            resume = resume or supervision.resume
            self.out, self._named = supervision.out or self.out, self._named or supervision.out is not None
            release()
        watcher: RunWatcher = TerminalWatcher() if self._show else LogWatcher()
        if supervision is not None and supervision.watcher is not None:
            watcher = supervision.watcher
        began = time.time() if supervision is None or supervision.began is None else supervision.began
        try:
            yield from self._watched(config, resume, watcher, began)
        finally:
            watcher.close()

    def _watched(self, config: Config, resume: bool, watcher: RunWatcher, began: float) -> Generator[StepRecord, None, None]:
        """Be what this process is in a run: all of it, the master, or a worker."""
        self.summary = None
        job = script_job()
        callbacks = [*self._callbacks, _Outcome(self, watcher)]
        if job is None:
            yield from hand_out(simulated_run(self._start(config, resume), watcher, callbacks, self._loggers))
        elif job.damaged:
            raise TooManyLost("a rank was lost in the run before: start the script again")
        elif job.rank > 0:
            self._take(serve(job, config))
        else:
            run = mpi_run(job, lambda: self._start(config, resume), watcher, began, callbacks, self._loggers)
            yield from lead(job, run, self._trained)

    def _trained(self) -> Vector | None:
        """Return the (d,) parameters of the module, if there is one."""
        return None if self._bound is None else self._bound.module.gather()

    def _take(self, model: Vector | None) -> None:
        """Give the module of this rank the trained parameters, (d,)."""
        if model is not None and self._bound is not None:
            self._bound.module.bind(model)

    def _start(self, config: Config, resume: bool) -> StartingPoint:
        """Return what to run and from where; rank 0's, or that of a process alone."""
        if not self._named:
            self.out = unused(Path("runs") / f"{Path(sys.argv[0]).stem or 'python'}-{datetime.now():%Y%m%d-%H%M%S}")
        elif self.out != self._last_out:
            self._first_out = self.out
        elif not resume:
            self.out = unused(self._first_out)
        self._last_out = self.out
        if script_job() is None and config.workers is None:
            config = replace(config, workers=_ALONE)
        if resume and (self.out / CONFIG).is_file():
            return go_on(config, self.out)
        return StartingPoint(config, self.out)

    def _problem(self, given: Any, shards: int | None) -> Choice | Given:
        """Return what the config says of the problem."""
        extra: dict[str, Any] = {"shards": None if shards is None else count_of("shards", shards, 1)}
        if isinstance(given, str | Mapping):
            return SECTIONS["problem"].check({**table_of(given), **{name: k for name, k in extra.items() if k is not None}})
        if isinstance(given, TorchProblem):
            if given.local_steps == "auto":
                extra["local_steps"] = given.local_steps

            def bind(k: int, seed: int, local_steps: int | None = None) -> BoundProblem:
                chosen = given if local_steps is None else replace(given, local_steps=local_steps)
                self._bound = chosen.bind(k, seed)
                return self._bound

            return Given("problem", bind, extra)
        if callable(given):
            return Given("problem", given, extra)
        raise ConfigError(f"problem: a {type(given).__name__}; take a gcdl.TorchProblem, a function of (k, seed), or a table")


class _Outcome(Callback):
    """Notes a run's summary at its trainer, and shows it."""

    def __init__(self, trainer: Trainer, watcher: RunWatcher) -> None:
        self._trainer = trainer
        self._watcher = watcher

    def end(self, summary: Summary) -> None:
        """See :class:`Callback`."""
        self._trainer.summary = summary
        self._watcher.end(summary, self._trainer.out)

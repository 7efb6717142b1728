"""Writes a run's checkpoints without holding up the run: a copy of it is taken between two steps, and written by a thread.

Some compressors have a state at each worker (error feedback). A checkpoint of step t then needs the states that the workers
had at t, and a late worker sends its own when it can. Until all have come the snapshot waits in memory, and the run goes on.
When the next checkpoint is due, the snapshot is written without the states that have not come. A run that is resumed from it
gives those workers a fresh state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gcdl.protocol.master import Master
from gcdl.training.checkpoint_file import Checkpoint, save
from gcdl.types import IntVector, Matrix

_PARAMETERS = "parameters"  # no optimizer calls an array of its own so


@dataclass(eq=False)
class _Writing:
    """A checkpoint that a thread writes; ``missing``: the workers whose states it lacks."""

    step: int
    missing: list[int]
    path: Future[Path]


@dataclass(frozen=True, eq=False)
class _AsOf:
    """What a snapshot says of the code and of the workers after ``step`` steps; see :class:`Checkpoint`."""

    step: int
    accepted: IntVector
    B: Matrix


class CheckpointWriter:
    """Writes the checkpoints of one run.

    Parameters
    ----------
    folder : the run folder.
    keep : how many checkpoints stay, the newest ones.
    master : has the model, and what is known of the workers.
    progress : returns the run's progress, JSON-ready.
    decoder : the decoder's name.
    say : takes a line for the user.
    written_to : is told the step and the path of each checkpoint that was written.
    meanwhile : write while the run goes on. Else a checkpoint is written, and told of, before its step's record is handed out,
        unless it waits for states.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        master: Master,
        progress: Callable[[], Mapping[str, Any]],
        decoder: str,
        say: Callable[[str], None],
        written_to: Callable[[int, Path], None] = lambda step, path: None,
        meanwhile: bool = True,
    ) -> None:
        self._meanwhile = meanwhile
        self._folder = folder
        self._keep = keep
        self._master = master
        self._progress = progress
        self._decoder = decoder
        self._say = say
        self._written_to = written_to
        self._asked: _AsOf | None = None
        self._waiting: tuple[Checkpoint, Future[Checkpoint]] | None = None
        """A snapshot whose arrays are the run's own, and its copy."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._buffers: dict[str, np.ndarray] = {}
        """What snapshots are copied to: by name."""
        self._writing: _Writing | None = None
        self._lacked: list[int] = []
        """The workers whose states the newest checkpoint that was written lacks."""
        self.written = 0
        """The step of the newest checkpoint that was written; 0: none was."""

    def ask(self) -> None:
        """Ask the workers for the states that the next snapshot needs, and note which.

        This must be called before the next step's tasks go out: another code may hold with them.
        """
        self._master.ask_for_states()
        self._asked = self._as_of_now()

    def begin(self, *, hold: bool = False) -> None:
        """Take a snapshot of the run, after a step, and write it as soon as it is complete. :meth:`ask` goes before.

        ``hold``: not before the next :meth:`look`.
        """
        self._take_snapshot()
        if not hold:
            self.look()

    def look(self) -> None:
        """Write the snapshot that waits, if there is one and all states have come. Tell of one that is written by now."""
        if self._writing is not None and self._writing.path.done():
            self.settle()
        if self._waiting is not None and not self._master.silent(self._waiting[0].accepted):
            self._write()

    def settle(self) -> None:
        """Wait for the checkpoint that is being written, and tell of it."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        try:
            path = writing.path.result()
        except OSError as error:  # a full disk does not end a run
            self._say(f"checkpoint of step {writing.step} not written: {error}; the ones before it are as they were")
        else:
            self.written, self._lacked = writing.step, writing.missing
            self._written_to(writing.step, path)

    def finish(self, *, interrupted: bool = False) -> None:
        """Write a last checkpoint, with the states that are known.

        ``interrupted``: somebody stops the run, and may have stopped workers too. If this checkpoint would lack a state that
        the one before has, it is not written. Then the run goes on from the one before, to the model of a run that was never
        stopped.
        """
        self._take_snapshot()
        self._write(interrupted=interrupted)
        self.settle()

    def _take_snapshot(self) -> None:
        """Begin to copy the run as it is now. The model does not change before that is done."""
        self._write()
        self.settle()  # the buffers are free then
        snapshot = self._snapshot()
        copied = self._thread.submit(self._copy, snapshot)
        self._master.reader = copied.result
        self._waiting = snapshot, copied

    def _copy(self, snapshot: Checkpoint) -> Checkpoint:
        arrays = {_PARAMETERS: snapshot.parameters, **snapshot.optimizer}
        for name, array in arrays.items():
            if name not in self._buffers or self._buffers[name].shape != array.shape:
                self._buffers[name] = np.empty_like(array)
            np.copyto(self._buffers[name], array)
        optimizer = {name: self._buffers[name] for name in snapshot.optimizer}
        return replace(snapshot, parameters=self._buffers[_PARAMETERS], optimizer=optimizer)

    def _snapshot(self) -> Checkpoint:
        """Return the run as it is now; parameters and the optimizer's arrays change in the next step."""
        master, slices = self._master, self._master.slices
        slices.collect()
        asked = self._asked
        as_of = self._as_of_now() if asked is None or asked.step != master.steps_done else asked
        return Checkpoint(
            step=as_of.step,
            parameters=slices.parameters,
            accepted=as_of.accepted,
            optimizer=slices.optimizer_state(),
            states={},
            B=as_of.B,
            decoder=self._decoder,
            progress=self._progress(),
            downlink=slices.downlink_state(),
        )

    def _as_of_now(self) -> _AsOf:
        return _AsOf(self._master.steps_done, self._master.accepted.copy(), self._master.code.B)

    def _write(self, *, interrupted: bool = False) -> None:
        if self._waiting is None:
            return
        self.settle()
        (snapshot, copied), self._waiting = self._waiting, None
        missing = self._master.states.missing(snapshot.accepted)
        lost = [worker for worker in missing if worker not in self._lacked]
        if interrupted and self.written and lost:
            self._say(
                f"no checkpoint of step {snapshot.step}: the compressor's state of worker {', '.join(map(str, lost))} has not "
                f"come; that of step {self.written} has it"
            )
            return
        if missing:
            self._say(
                f"checkpoint of step {snapshot.step}: the compressor's state of worker {', '.join(map(str, missing))} has not "
                "come; resumed from here, it starts afresh"
            )
        states = self._master.states.known(snapshot.accepted)
        path = self._thread.submit(lambda: save(self._folder, replace(copied.result(), states=states), self._keep))
        self._master.states.leave_to(lambda: wait([path]))
        self._writing = _Writing(snapshot.step, missing, path)
        if not self._meanwhile:
            self.settle()

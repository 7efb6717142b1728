"""Writes a run's checkpoints without holding up the run: a copy of it is taken between two steps, and written by a thread.

Some compressors have a state at each worker (error feedback). A checkpoint of step t then needs the states that the workers
had at t, and a late worker sends its own when it can. Until all have come the snapshot waits in memory, and the run goes on.
When the next checkpoint is due, the snapshot is written without the states that have not come. A run that is resumed from it
gives those workers a fresh state.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gcdl.protocol.master import Master
from gcdl.training.checkpoint_file import Checkpoint, save
from gcdl.types import IntVector, Matrix


@dataclass(eq=False)
class _Writing:
    """A checkpoint that a thread writes; ``missing``: the workers whose states it lacks."""

    step: int
    missing: list[int]
    thread: threading.Thread
    path: Path | None = None
    error: BaseException | None = None


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
    ) -> None:
        self._folder = folder
        self._keep = keep
        self._master = master
        self._progress = progress
        self._decoder = decoder
        self._say = say
        self._written_to = written_to
        self._asked: _AsOf | None = None
        self._waiting: Checkpoint | None = None
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
        self._write()
        self._waiting = self._snapshot()
        if not hold:
            self.look()

    def look(self) -> None:
        """Write the snapshot that waits, if there is one and all states have come. Tell of one that is written by now."""
        if self._writing is not None and not self._writing.thread.is_alive():
            self.settle()
        if self._waiting is not None and not self._master.silent(self._waiting.accepted):
            self._write()

    def settle(self) -> None:
        """Wait for the checkpoint that is being written, and tell of it."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        writing.thread.join()
        if isinstance(writing.error, OSError):  # a full disk does not end a run
            self._say(f"checkpoint of step {writing.step} not written: {writing.error}; the ones before it are as they were")
        elif writing.error is not None:
            raise writing.error
        elif writing.path is not None:
            self.written, self._lacked = writing.step, writing.missing
            self._written_to(writing.step, writing.path)

    def finish(self, *, interrupted: bool = False) -> None:
        """Write a last checkpoint, with the states that are known.

        ``interrupted``: somebody stops the run, and may have stopped workers too. If this checkpoint would lack a state that
        the one before has, it is not written. Then the run goes on from the one before, to the model of a run that was never
        stopped.
        """
        self._waiting = self._snapshot()
        self._write(interrupted=interrupted)
        self.settle()

    def _snapshot(self) -> Checkpoint:
        """Return the run as it is now, copied."""
        master, slices = self._master, self._master.slices
        slices.collect()
        asked = self._asked
        as_of = self._as_of_now() if asked is None or asked.step != master.steps_done else asked
        return Checkpoint(
            step=as_of.step,
            parameters=slices.parameters.copy(),
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
        snapshot, self._waiting = self._waiting, None
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
        complete = replace(snapshot, states=self._master.states.known(snapshot.accepted))
        self._writing = self._start(complete, missing)

    def _start(self, checkpoint: Checkpoint, missing: list[int]) -> _Writing:
        """Begin to write a checkpoint in a thread."""

        def work() -> None:
            try:
                writing.path = save(self._folder, checkpoint, self._keep)
            except BaseException as error:  # settle() tells of it
                writing.error = error

        writing = _Writing(checkpoint.step, missing, threading.Thread(target=work, name="checkpoint"))
        self._master.states.leave_to(writing.thread)
        writing.thread.start()
        return writing

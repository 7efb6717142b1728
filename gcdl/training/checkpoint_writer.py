"""Writes a run's checkpoints without holding up the run.

Some compressors have a state at each worker (error feedback). A checkpoint of step t then needs the states that the workers
had at t, and a late worker sends its own when it can. Until all have come the snapshot waits in memory, and the run goes on.
When the next checkpoint is due, the snapshot is written without the states that have not come. A run that is resumed from it
gives those workers a fresh state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gcdl.protocol.master import Master
from gcdl.training.checkpoint_file import Checkpoint, save


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
        self._waiting: Checkpoint | None = None
        self._lacked: list[int] = []
        """The workers whose states the newest checkpoint that was written lacks."""
        self.written = 0
        """The step of the newest checkpoint that was written; 0: none was."""

    def ask(self) -> None:
        """Ask the workers for the states that the next snapshot needs. Call it before the next step's tasks go out."""
        self._master.ask_for_states()

    def begin(self, *, hold: bool = False) -> None:
        """Take a snapshot of the run, after a step, and write it as soon as it is complete. :meth:`ask` goes before.

        ``hold``: not before the next :meth:`look`.
        """
        self._write()
        self._waiting = self._snapshot(hold=hold)
        if not hold:
            self.look()

    def look(self) -> None:
        """Write the snapshot that waits, if there is one and all states have come."""
        if self._waiting is not None and not self._master.silent(self._waiting.accepted):
            self._write()

    def finish(self, *, interrupted: bool = False) -> None:
        """Write a last checkpoint, with the states that are known.

        ``interrupted``: somebody stops the run, and may have stopped workers too. If this checkpoint would lack a state that
        the one before has, it is not written. Then the run goes on from the one before, to the model of a run that was never
        stopped.
        """
        self._waiting = self._snapshot()
        self._write(interrupted=interrupted)

    def _snapshot(self, *, hold: bool = False) -> Checkpoint:
        master, slices = self._master, self._master.slices
        slices.collect()
        waits = hold or bool(master.states.state_bytes)  # then the parameters change before it is written
        return Checkpoint(
            step=master.steps_done,
            parameters=slices.parameters.copy() if waits else slices.parameters,
            accepted=master.accepted.copy(),
            optimizer=slices.optimizer_state(),
            states={},
            B=master.code.B,
            decoder=self._decoder,
            progress=self._progress(),
            downlink=slices.downlink_state(),
        )

    def _write(self, *, interrupted: bool = False) -> None:
        if self._waiting is None:
            return
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
        try:
            path = save(self._folder, complete, self._keep)
        except OSError as error:  # a full disk does not end a run
            self._say(f"checkpoint of step {snapshot.step} not written: {error}; the ones before it are as they were")
        else:
            self.written, self._lacked = snapshot.step, missing
            self._written_to(snapshot.step, path)

"""Rank 0's end of the channels to the slice masters: what they hold, and what they are told. See master_channel."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from gcdl.errors import Interrupted, MasterLost, MessageError, WorkerError
from gcdl.host.processes import birth
from gcdl.protocol.ledger import Traffic
from gcdl.protocol.wire import Header, Kind
from gcdl.transport.mpi.backoff import Backoff
from gcdl.transport.mpi.job import SHUTDOWN_SECONDS, Job
from gcdl.transport.mpi.master_channel import (
    DIGEST_BYTES,
    MasterChannel,
    add_traffic,
    body_of,
    decode_body,
    note_bytes,
    read_holds_body,
)
from gcdl.types import Buffer, Mask, Weights

_NEWS_SECONDS = 10.0
_LOOK_SECONDS = 0.2
_SILENT_SECONDS = 5.0


@dataclass(eq=False)
class _SliceMaster:
    """What rank 0 knows of another master."""

    master: int
    blocks: int
    channel: MasterChannel
    notes: dict[int, Buffer] = field(default_factory=dict)
    """By a worker's rank: what it said of the newest reply of which it has its slice."""
    squares: Weights | None = None
    """Of the step that it was last told to decode; None: it has not answered."""
    arrays: dict[str, np.ndarray] | None = None
    """What it was last asked for; None: they have not come."""
    heard: float = field(default_factory=time.monotonic)
    """When it last said something."""
    asked: float | None = None
    """When it was asked for an answer, which has not come."""
    ready: bool = False
    done: bool = False
    gone: bool = False
    host: str = "?"
    pid: int = 0
    born: int = 0

    @property
    def name(self) -> str:
        """How messages to the user call it."""
        return f"slice master {self.master} (rank {self.master}, host {self.host})"


class OtherMasters:
    """The masters beside rank 0.

    Parameters
    ----------
    job : this process is its rank 0.
    run : the run's id.
    n : workers.
    blocks : of the slices of masters 1, 2, ...: how many BLOCKs each has.
    patience : seconds after which a slice master that has not answered is given up.
    interrupted : asked while waiting; true raises Interrupted.
    say : takes a line for the user.
    """

    def __init__(
        self,
        job: Job,
        *,
        run: int,
        n: int,
        blocks: Sequence[int],
        patience: float,
        interrupted: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        self.traffic = Traffic(n)
        """Counts what all masters send and receive."""
        self._n = n
        self._job = job
        self._interrupted = interrupted
        self._say = say
        self._patience = patience
        self._look_at = self._next_news = 0.0
        self._step = -1
        self._held: dict[int, tuple[int, int]] = {}
        """By a worker's rank: the step of the newest reply that slices were seen of, and how many masters have theirs."""
        self._senders: dict[int, int] = {}
        """By worker: the rank of the process that sent its newest whole reply."""
        self._masters = [
            _SliceMaster(master, count, MasterChannel(job.comm, master, run, 64 * n + n * note_bytes(count) + 1024))
            for master, count in enumerate(blocks, start=1)
        ]

    # -- what the transport asks

    def poll(self) -> None:
        """Take in what has come.

        Raises
        ------
        MasterLost : a slice master is gone.
        WorkerError : one raised.
        """
        for master in self._masters:
            if not master.gone:
                self._poll(master)
        self._look_for_dead()
        self._look_for_silent()

    def hold(self, worker: int, rank: int, step: int) -> bool:
        """Say whether all of them have their slices of the reply that a worker, by its process of this rank, sent to a step."""
        if self._held.get(rank) != (step, len(self._masters)):
            return False
        self._senders[worker] = rank
        return True

    def stop(self) -> None:
        """Tell them to stop their workers."""
        for master in self._masters:
            self._tell(master, Kind.STOP)

    def finish(self) -> int:
        """Wait until their workers have stopped, but not for ever; return the number of replies they dropped."""
        until = time.monotonic() + 2.0 * SHUTDOWN_SECONDS
        backoff = Backoff()
        while not all(master.done or master.gone for master in self._masters) and time.monotonic() < until:
            for master in self._masters:
                if not master.gone and not master.done:
                    try:
                        self._poll(master)
                    except (MasterLost, WorkerError):
                        master.gone = True
            backoff.sleep()
        for master in self._masters:
            if not master.done and not master.gone:
                self._job.damaged = True
                self._say(f"not waiting any longer for {master.name}, which has not stopped")
        self._job.add_farewell([(self._job.comm, master.master) for master in self._masters if master.done])
        return 0

    # -- what the slices of the model ask

    def start(self, seconds: float) -> None:
        """Wait until they have built their slices, and their workers are ready.

        Raises
        ------
        MasterLost : one has not within ``seconds``; or is gone.
        """
        self._await(lambda master: master.ready, "start-up", seconds)

    def begin(self, step: int, arrays: Sequence[Mapping[str, np.ndarray]] | None) -> None:
        """Let them send the tasks of ``step``, with these arrays of their slices, if there are any."""
        for place, master in enumerate(self._masters):
            if arrays is not None:
                self._attempt(master, lambda there, place=place: there.send_arrays(arrays[place], step))  # type: ignore[misc]
            self._tell(master, Kind.BEGIN, step=step)

    def decode(self, step: int, a: Weights, arrived: Mask) -> None:
        """Let them decode a step's replies."""
        self._step = step
        body = decode_body(a, arrived)
        for master in self._masters:
            master.squares = None
            self._tell(master, Kind.DECODE, step=step, body=body)

    def squares(self) -> list[Weights]:
        """Wait until they have decoded; return the squared norms of their BLOCKs."""
        self._await(lambda master: master.squares is not None, f"step {self._step}: decoding")
        return [master.squares for master in self._masters if master.squares is not None]

    def step(self, norm: float) -> None:
        """Let them take the optimizer's step: the gradient of all slices has this norm."""
        for master in self._masters:
            self._tell(master, Kind.STEP, loss=norm)

    def collect(self, *, states: bool) -> list[dict[str, np.ndarray]]:
        """Return the parameters of their slices; or the states beside them."""
        for master in self._masters:
            master.arrays = None
            self._tell(master, Kind.COLLECT, step=int(states))
        self._await(lambda master: master.arrays is not None, f"step {self._step}: collecting the model")
        return [master.arrays for master in self._masters if master.arrays is not None]

    def energies(self, worker: int) -> list[NDArray[np.float64]]:
        """Return the energies behind their slices of a worker's newest reply, (blocks, 2) each."""
        return [master.notes[self._senders[worker]][DIGEST_BYTES:].view(np.float64).reshape(-1, 2) for master in self._masters]

    def digests(self, worker: int) -> list[Buffer]:
        """Return the digests of their slices of a worker's newest reply."""
        return [master.notes[self._senders[worker]][:DIGEST_BYTES] for master in self._masters]

    # -- one of them

    def _tell(self, master: _SliceMaster, kind: Kind, *, step: int = -1, loss: float = 0.0, body: Buffer | None = None) -> None:
        self._attempt(master, lambda channel: channel.send(kind, step=step, loss=loss, body=body))

    def _attempt(self, master: _SliceMaster, act: Callable[[MasterChannel], None]) -> None:
        """Send something. A failure is found by the next :meth:`poll`."""
        if master.gone:
            return
        before = master.channel.bytes
        try:
            act(master.channel)
        except MPI.Exception:
            return
        self.traffic.control += master.channel.bytes - before

    def _poll(self, master: _SliceMaster) -> None:
        while not master.done:  # a receive left posted would take the first message of a script's next run
            try:
                received = master.channel.poll()
                if received is None:
                    return
                self._understand(master, *received)
            except MPI.Exception as error:
                raise self._lost(master, f" ({error})") from error
            except MessageError as error:
                self.traffic.foreign += 1
                self._say(f"dropped a message from {master.name}: {error}")

    def _look_for_silent(self) -> None:
        """Ask slice masters that have said nothing for long, and name those that do not answer."""
        now = time.monotonic()
        for master in self._masters:
            if master.gone or master.done or not master.ready:
                continue
            if master.asked is None:
                if now > master.heard + _SILENT_SECONDS:
                    master.asked = now
                    self._tell(master, Kind.PING)
            elif now > max(master.asked + _SILENT_SECONDS, self._next_news):
                self._say(f"step {self._step + 1}: {master.name} has not answered for {now - master.heard:.0f} s")
                self._next_news = now + _NEWS_SECONDS

    def _understand(self, master: _SliceMaster, header: Header, body: Buffer) -> None:
        master.heard, master.asked = time.monotonic(), None
        if header.kind is Kind.HOLDS:
            for rank, note in read_holds_body(body):
                step, count = self._held.get(rank, (-1, 0))
                self._held[rank] = header.step, count + 1 if step == header.step else 1
                master.notes[rank] = note
        elif header.kind is Kind.DECODED:
            own = 8 * master.blocks
            squares = body[:own].copy().view(np.float64)
            add_traffic(body[own:], self._n, self.traffic)
            master.squares = squares
        elif header.kind is Kind.ARRAYS:
            master.arrays = master.channel.receive_arrays(body, self._look_for_dead)
        elif header.kind is Kind.TRAFFIC:
            add_traffic(body, self._n, self.traffic)
            master.done = True
        elif header.kind is Kind.HELLO:
            fields = body_of(header, body)
            master.host, master.pid, born = fields.get("host", str), fields.get("pid", int), fields.get("born", int)
            master.born = born if master.host == platform.node() and birth(master.pid) == born else 0
        elif header.kind is Kind.READY:
            master.ready = True
        elif header.kind is Kind.PONG:
            pass
        elif header.kind is Kind.ERROR:
            fields = body_of(header, body)
            raise WorkerError(
                f"{master.name}: {fields.get('message', str)}",
                worker=-1,
                traceback=fields.get("traceback", str),
                exit_code=fields.get("exit_code", int),
            )
        else:
            raise MessageError(f"a {header.kind.name} message from a slice master")

    def _look_for_dead(self) -> None:
        """Find slice masters whose death MPI does not report: those of this machine, by asking the system."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        for master in self._masters:
            if not master.gone and not master.done and master.born and birth(master.pid) != master.born:
                raise self._lost(master)

    def _lost(self, master: _SliceMaster, why: str = "") -> MasterLost:
        master.gone = True
        self._job.damaged = True
        when = "before the first step" if self._step < 0 else f"at step {self._step}"
        return MasterLost(f"{master.name} is lost: its process (pid {master.pid}) ended {when}{why}")

    def _await(self, there: Callable[[_SliceMaster], bool], what: str, seconds: float | None = None) -> None:
        """Wait until a condition holds for all of them, and say whom the run waits for."""
        began = time.monotonic()
        seconds = self._patience if seconds is None else seconds
        next_news = began + _NEWS_SECONDS
        backoff = Backoff()
        while missing := [master for master in self._masters if not there(master)]:
            self.poll()
            if self._interrupted():
                raise Interrupted("interrupted")
            now = time.monotonic()
            names = "; ".join(master.name for master in missing)
            if now > began + seconds or any(master.done for master in missing):
                raise MasterLost(f"{what}: no answer within {now - began:.0f} s from {names}")
            if now > next_news:
                self._say(f"{what}: waiting for {names} ({now - began:.0f} s)")
                next_news = now + _NEWS_SECONDS
            backoff.sleep()

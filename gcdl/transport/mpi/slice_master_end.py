"""A slice master: it decodes its slice of the replies, steps its slice of the optimizer, and sends its slice of the model.

Rank 0 decides which replies are decoded, and with which weights; see :mod:`gcdl.transport.mpi.master_channel`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from mpi4py import MPI

from gcdl.errors import Interrupted, MasterGone, MessageError
from gcdl.host.processes import this_process
from gcdl.protocol.ledger import Traffic
from gcdl.protocol.model_slices import ModelSlice
from gcdl.protocol.tasks import Joined, Reply, Task
from gcdl.protocol.wire import HEADER_BYTES, Header, Kind
from gcdl.transport.mpi.backoff import Backoff
from gcdl.transport.mpi.error_fields import error_fields
from gcdl.transport.mpi.job import SHUTDOWN_SECONDS, TAG, Job
from gcdl.transport.mpi.master_channel import DIGEST_BYTES, MasterChannel, digest, holds_body, read_decode_body, traffic_body
from gcdl.transport.mpi.master_end import MpiTransport
from gcdl.transport.mpi.remote_slices import DOWNLINK, OPTIMIZER, PARAMETERS
from gcdl.types import Buffer, aligned_buffer

_NOTHING: Buffer = np.zeros(0, dtype=np.uint8)


class SliceMaster:
    """One slice of the model at its master.

    Parameters
    ----------
    job : all ranks.
    run : the run's id.
    n : workers.
    steps : of the run: after the last one no task is sent.
    master_timeout : seconds of silence after which rank 0 is taken for dead.
    verify : whether rank 0 compares digests of the payloads.
    noise : whether rank 0 needs the energies behind the payloads.
    """

    def __init__(
        self,
        job: Job,
        *,
        run: int,
        n: int,
        steps: int,
        master_timeout: float,
        verify: bool,
        noise: bool,
    ) -> None:
        self._job = job
        self._run = run
        self._steps = steps
        self._patience = master_timeout
        self._verify = verify
        self._noise = noise
        self._channel = MasterChannel(job.comm, 0, run, 16 * n + 1024)
        self._stopped = False
        self._step = -1
        self._payloads: dict[int, Buffer] = {}
        """Of the replies to this step."""
        self._heard = time.monotonic()
        self._told: Traffic | None = None
        """What was sent and received when rank 0 was last told."""
        self._waiting: tuple[Header, Buffer] | None = None
        """A message that came before this master was ready for it."""

    def stopping(self) -> bool:
        """Say whether rank 0 has said STOP: asked while the workers load their data."""
        if self._waiting is None:
            received = self._channel.poll()
            if received is not None:
                header, body = received
                self._waiting = header, body.copy()
        return self._waiting is not None and self._waiting[0].kind is Kind.STOP

    def serve(self, build: Callable[[], ModelSlice], transport: MpiTransport, start: Callable[[], None]) -> None:
        """Serve until rank 0 says STOP, and then END.

        ``build`` makes the slice; ``start`` waits until the workers are ready. An exception of these, or of the work itself,
        is sent to rank 0, and ends the whole run from there.

        Raises
        ------
        MasterGone : rank 0 is gone, or has been silent for ``master_timeout`` seconds.
        """
        try:
            self._channel.send_json(Kind.HELLO, this_process())
            try:
                piece = build()
                start()
                self._channel.send(Kind.READY)
                self._loop(piece, transport)
            except Interrupted:
                pass
            except (MPI.Exception, MasterGone):
                raise
            except (Exception, SystemExit) as error:
                self._channel.send_json(Kind.ERROR, error_fields(error))
                self._wait_for_stop()
            transport.close()
            self._channel.send(Kind.TRAFFIC, body=self._traffic(transport))
            self._channel.flush(SHUTDOWN_SECONDS)
            wait_for_end(self._job, self._run, self._patience)
        except MPI.Exception as error:
            raise MasterGone(f"slice master {self._job.rank}: lost rank 0 ({error})") from error

    def _loop(self, piece: ModelSlice, transport: MpiTransport) -> None:
        backoff = Backoff()
        while not self._stopped:
            moved = self._listen(piece, transport)
            received = transport.poll(transport.n)
            if isinstance(received, list):
                self._take(piece, received, transport)
            elif isinstance(received, Joined) and 0 <= self._step < self._steps:
                transport.send(received.worker, self._task(piece))
            if moved or received is not None:
                backoff.reset()
            else:
                backoff.sleep()
            if time.monotonic() > self._heard + self._patience:
                raise MasterGone(f"rank 0 has been silent for {self._patience:g} s")

    def _take(self, piece: ModelSlice, replies: Sequence[Reply], transport: MpiTransport) -> None:
        """Keep replies to the newest task, and tell rank 0 whose processes sent them; replies to other tasks came too late.

        A second reply of a worker is that of the process that took its place: then rank 0 has not used the first one.
        """
        notes: dict[int, Buffer] = {}
        for reply in replies:
            if reply.step == self._step:
                self._payloads[reply.worker] = reply.payload
                notes[transport.rank_of(reply.worker)] = self._note(piece, reply.payload)
        if notes:
            self._channel.send(Kind.HOLDS, step=self._step, body=holds_body(notes))

    def _note(self, piece: ModelSlice, payload: Buffer) -> Buffer:
        """Return what rank 0 needs of a payload."""
        said: list[Buffer] = []
        if self._verify or self._noise:
            said.append(digest(payload) if self._verify else np.zeros(DIGEST_BYTES, dtype=np.uint8))
        if self._noise:
            said.append(piece.codec.energies(payload, piece.agreed).astype(np.float64).reshape(-1).view(np.uint8))
        return np.concatenate(said) if said else _NOTHING

    def _listen(self, piece: ModelSlice, transport: MpiTransport) -> bool:
        """Do what rank 0 says; return whether it has said something."""
        received = self._waiting if self._waiting is not None else self._channel.poll()
        self._waiting = None
        if received is None:
            return False
        header, body = received
        self._heard = time.monotonic()
        if header.kind is Kind.STOP:
            self._stopped = True
        elif header.kind is Kind.ARRAYS:
            self._load(piece, header.step, self._channel.receive_arrays(body, lambda: None))
        elif header.kind is Kind.BEGIN:
            self._step = header.step
            self._send(piece, transport)
        elif header.kind is Kind.DECODE:
            a, arrived = read_decode_body(body)
            squares = piece.decode(header.step, a, {worker: self._payloads[worker] for worker in arrived})
            self._channel.send(
                Kind.DECODED, step=header.step, body=np.concatenate([squares.view(np.uint8), self._traffic(transport)])
            )
            if not piece.clips:
                self._advance(piece, transport, float("nan"))
        elif header.kind is Kind.STEP:
            self._advance(piece, transport, header.loss)
        elif header.kind is Kind.PING:
            self._channel.send(Kind.PONG)
        elif header.kind is Kind.COLLECT:
            self._channel.send_arrays(_states(piece) if header.step else {PARAMETERS: piece.optimizer.parameters})
        else:
            raise MessageError(f"a {header.kind.name} message from rank 0")
        return True

    def _advance(self, piece: ModelSlice, transport: MpiTransport, norm: float) -> None:
        """Take the optimizer's step, and send the next tasks."""
        piece.step(norm)
        self._step += 1
        self._payloads.clear()
        self._send(piece, transport)

    def _send(self, piece: ModelSlice, transport: MpiTransport) -> None:
        if self._step < self._steps:
            task = self._task(piece)
            for worker in range(transport.n):
                transport.send(worker, task)

    def _task(self, piece: ModelSlice) -> Task:
        """Return the newest task. Which reply of a worker was used last is told by rank 0's task alone."""
        publisher = piece.publisher
        return Task(self._step, np.zeros(0, dtype=np.int64), publisher.model, piece.agreed, publisher.content)

    def _load(self, piece: ModelSlice, step: int, arrays: dict[str, np.ndarray]) -> None:
        optimizer, downlink = (
            {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            for prefix in (OPTIMIZER, DOWNLINK)
        )
        piece.load(step, arrays[PARAMETERS], optimizer, downlink)

    def _traffic(self, transport: MpiTransport) -> Buffer:
        """Return what this master sent and received since it last said so."""
        now = transport.traffic.copy()
        now.control += self._channel.bytes
        body = traffic_body(now, Traffic(transport.n) if self._told is None else self._told)
        self._told = now
        return body

    def _wait_for_stop(self) -> None:
        backoff = Backoff()
        until = time.monotonic() + self._patience
        while not self.stopping():
            self._waiting = None
            if time.monotonic() > until:
                raise MasterGone(f"rank 0 has been silent for {self._patience:g} s")
            backoff.sleep()


def wait_for_end(job: Job, run: int, seconds: float) -> None:
    """Wait for rank 0's END, as a rank that is no worker does.

    Raises
    ------
    MasterGone : it has not come within ``seconds``, or rank 0 is gone.
    """
    inbox = aligned_buffer(HEADER_BYTES)
    try:
        request = job.comm.Irecv([inbox, MPI.BYTE], source=0, tag=TAG)
        backoff = Backoff()
        until = time.monotonic() + seconds
        while not request.Test():
            if time.monotonic() > until:
                raise MasterGone(f"the master (rank 0) has been silent for {seconds:g} s")
            backoff.sleep()
    except MPI.Exception as error:
        raise MasterGone(f"rank {job.rank}: lost the master ({error})") from error
    job.damaged = Header.read(inbox, HEADER_BYTES, run).step != 0


def _states(piece: ModelSlice) -> dict[str, np.ndarray]:
    return {
        **{f"{OPTIMIZER}{name}": array for name, array in piece.optimizer.state(copied=False).items()},
        **{f"{DOWNLINK}{name}": array for name, array in piece.downlink_state().items()},
    }

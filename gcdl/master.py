"""The master's loop: send, wait, decode, step. It knows no MPI, and there is no second copy of it.

Replies are decoded in worker order, not in order of arrival, so that the arrived sets alone decide the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from gcdl.codes import GradientCode, noise_gain
from gcdl.compressors import Draw, Message
from gcdl.errors import TooManyLost, WorkerLost
from gcdl.messages import HEADER_BYTES, Replies, Task
from gcdl.records import StepRecord
from gcdl.timeline import Rows, StepTiming
from gcdl.transport.base import Transport
from gcdl.types import Buffer, Vector, Weights, aligned_vector
from gcdl.wait import WaitRule

_NEWS_SECONDS = 10.0


class Decodes(Protocol):
    """What the master needs of a codec."""

    def decode(self, messages: Sequence[Message], into: Vector) -> None:
        """See :class:`gcdl.compressors.Codec`."""
        ...

    def energy(self, payload: Buffer) -> tuple[float, float]:
        """See :class:`gcdl.compressors.Codec`."""
        ...


class Steps(Protocol):
    """What the master needs of an optimizer."""

    parameters: Vector

    def step(self, gradient: Vector) -> None:
        """Update ``parameters`` in place."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of its own arrays, by name."""
        ...


class Master:
    """Trains ``optimizer.parameters``.

    Parameters
    ----------
    transport : the way to the workers.
    code, codec : decode what they send.
    wait : when to stop waiting.
    optimizer : owns the (d,) parameters.
    seed : the run's.
    say : is told whom a step waits for when it waits long.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        code: GradientCode,
        codec: Decodes,
        wait: WaitRule,
        optimizer: Steps,
        seed: int,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.transport = transport
        self.code = code
        self.codec = codec
        self.wait = wait
        self.optimizer = optimizer
        self.seed = seed
        self.say = say
        self.steps_done = 0
        self.accepted = np.full(code.n, -1, dtype=np.int64)
        self._alive = np.ones(code.n, dtype=bool)
        self._gradient = aligned_vector(optimizer.parameters.size)

    def run(self, steps: int) -> Iterator[StepRecord]:
        """Train for ``steps`` steps and stop the workers; yields a record after each step.

        The last record comes after the shutdown, and counts what was drained in it.

        Raises
        ------
        TooManyLost : the wait rule can't be met any more, or nobody answers.
        WorkerError, Interrupted : from the transport.
        """
        for step in range(steps):
            uplink, downlink = self.transport.traffic.uplink, self.transport.traffic.downlink
            record = self._step(step)
            self.steps_done = step + 1
            if step == steps - 1:
                record.late += self.transport.close()
            record.uplink_bytes = self.transport.traffic.uplink - uplink
            record.downlink_bytes = self.transport.traffic.downlink - downlink
            yield record

    def _step(self, step: int) -> StepRecord:
        clock = self.transport.now
        began = clock()
        task = Task(step, self.accepted.copy(), self.optimizer.parameters)
        for worker in np.flatnonzero(self._alive):
            self.transport.send(int(worker), task)
        sent = clock()
        gathered = _Gathered(self.code.n)
        timed_out = self._gather(step, began, gathered)
        waited = clock()

        rows, payloads = gathered.in_worker_order()
        noise = self._noise(payloads) if self.code.decoder.needs_noise else None
        a = self.code.decoding_vector(gathered.arrived, noise)
        self.codec.decode(
            [
                Message(payload, float(a[i]), Draw(self.seed, step, i, int(self.code.shifts[i])))
                for i, payload in payloads.items()
            ],
            self._gradient,
        )
        self.code.decoder.finish(self._gradient)
        norm = float(np.linalg.norm(self._gradient)) if self._gradient.size else math.nan
        self.transport.decoded(len(rows))
        decoded = clock()
        self.optimizer.step(self._gradient)
        self.transport.stepped()
        ended = clock()
        # A reply decoded with weight zero was not used: its sender keeps its residual.
        self.accepted[gathered.arrived & (a != 0.0)] = step
        return StepRecord(
            step=step,
            seconds=ended - began,
            train_loss=float(sum((a[rows["worker"]] * rows["loss"]).tolist())),
            replies=rows["worker"].tolist(),
            late=gathered.late,
            decoding_error=self.code.decoding_error(a),
            noise_gain=noise_gain(a),
            gradient_norm=norm,
            uplink_bytes=0,
            downlink_bytes=0,
            timed_out=timed_out,
            lost=self.lost,
            coverage=self.code.coverage(a),
            timing=StepTiming(began, sent, waited, decoded, ended, rows),
        )

    @property
    def lost(self) -> list[int]:
        """The ids of the workers that are gone."""
        return [int(worker) for worker in np.flatnonzero(~self._alive)]

    def _noise(self, payloads: dict[int, Buffer]) -> Weights:
        """Return v, (n,): the noise energy of each reply as a share of the signal energy of all; see the MMSE decoder."""
        v = np.zeros(self.code.n)
        total = 0.0
        for worker, payload in payloads.items():
            signal, v[worker] = self.codec.energy(payload)
            total += signal
        return v / total if total > 0.0 else v * 0.0

    def _gather(self, step: int, began: float, gathered: _Gathered) -> bool:
        """Collect replies to ``step`` until the wait rule is met; return whether it timed out instead."""
        arrived = gathered.arrived
        next_news = began + _NEWS_SECONDS
        while True:
            expected = self._alive & ~arrived
            if arrived.any() and (not expected.any() or self.wait.enough(arrived)):
                return False
            patience = self.wait.patience if arrived.any() else self.wait.timeout
            until = began + min(patience, self.wait.timeout)
            try:
                replies = self.transport.receive(min(until, next_news), self.wait.lacking(arrived))
            except WorkerLost as lost:
                self._without(lost, step)
                continue
            if replies is None:
                missing = ", ".join(str(worker) for worker in np.flatnonzero(expected))
                if next_news < until:
                    self.say(f"step {step}: waiting for workers {missing} ({next_news - began:.0f} s)")
                    next_news += _NEWS_SECONDS
                    continue
                if arrived.any():
                    return patience > self.wait.timeout
                raise TooManyLost(
                    f"step {step}: no reply within [wait] timeout = {self.wait.timeout:g} s; waited for workers {missing}"
                )
            gathered.take(replies, step)

    def _without(self, lost: WorkerLost, step: int) -> None:
        """Go on without a worker, or raise TooManyLost."""
        self._alive[lost.worker] = False
        if not self.wait.feasible(self._alive):
            raise TooManyLost(
                f"step {step}: {lost}; the {int(self._alive.sum())} workers left are too few for the wait rule "
                f"(lost: {', '.join(map(str, self.lost))})"
            ) from lost


class _Gathered:
    """The replies of one step."""

    def __init__(self, n: int) -> None:
        self.arrived = np.zeros(n, dtype=bool)
        self.late = 0
        self._rows: list[Rows] = []
        self._messages: dict[int, Buffer] = {}

    def take(self, replies: Replies, step: int) -> None:
        """Keep the replies to this step; count all others as late."""
        workers = replies.rows["worker"]
        fresh = (replies.rows["step"] == step) & ~self.arrived[workers]
        self.late += int((~fresh).sum())
        self.arrived[workers[fresh]] = True
        self._rows.append(replies.rows[fresh])
        if replies.messages:
            self._messages.update((int(workers[i]), replies.messages[int(i)]) for i in np.flatnonzero(fresh))

    def in_worker_order(self) -> tuple[Rows, dict[int, Buffer]]:
        """Return the replies' table and their payloads, by worker."""
        rows = np.concatenate(self._rows)
        payloads = {worker: self._messages[worker][HEADER_BYTES:] for worker in sorted(self._messages)}
        return rows[np.argsort(rows["worker"])], payloads

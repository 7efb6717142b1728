"""The master's loop: send, wait, decode, step. It knows no MPI, and there is no second copy of it.

Replies are decoded in worker order, not in order of arrival, so that the arrived sets alone decide the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from gcdl.codes import GradientCode, noise_gain
from gcdl.compressors import Draw, Message
from gcdl.downlinks import Publisher, Steps, WholePublisher
from gcdl.errors import TooManyLost, WorkerError, WorkerLost
from gcdl.protocol.compressor_states import CompressorStates
from gcdl.protocol.ledger import Ledger
from gcdl.protocol.measurements import Rows, StepTiming, rows_of
from gcdl.protocol.replica_check import Replicas
from gcdl.protocol.step_record import StepRecord
from gcdl.protocol.tasks import Joined, Replies, Task, WorkerState
from gcdl.protocol.transport import Transport
from gcdl.protocol.wait_rules import WaitRule
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.types import Buffer, IntVector, Vector, Weights, aligned_vector

_NEWS_SECONDS = 10.0
_COLLECT_SECONDS = 5.0
_AGREED = "agreed"


class Decodes(Protocol):
    """What the master needs of a codec."""

    state_bytes: int
    agreed_count: int

    def decode(self, messages: Sequence[Message], into: Vector) -> None:
        """See :class:`gcdl.compressors.Codec`."""
        ...

    def agree(self, payloads: Sequence[Buffer]) -> Vector | None:
        """See :class:`gcdl.compressors.Codec`."""
        ...

    def energy(self, payload: Buffer, agreed: Vector | None = None) -> tuple[float, float]:
        """See :class:`gcdl.compressors.Codec`."""
        ...


class Master:
    """Trains ``optimizer.parameters``.

    Parameters
    ----------
    transport : the way to the workers.
    code, codec : decode what they send.
    wait : when to stop waiting.
    optimizer : owns the (d,) parameters.
    downlink : steps the optimizer, and has what a task carries; the whole model when left out.
    seed : the run's.
    replicas : compares replies that should be the same, if it is given.
    scratch : a folder for what is large and not to be kept.
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
        downlink: Publisher | None = None,
        replicas: Replicas | None = None,
        scratch: Path | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.transport = transport
        self.code = code
        self.codec = codec
        self.wait = wait
        self.optimizer = optimizer
        self.downlink = WholePublisher(optimizer) if downlink is None else downlink
        self.seed = seed
        self.replicas = replicas
        self.say = say
        self.steps_done = 0
        self.agreed: Vector | None = None
        """(G,): the scales that the workers use in the next step, where they agree on some."""
        self.accepted = np.full(code.n, -1, dtype=np.int64)
        self.states = CompressorStates(code.n, codec.state_bytes, scratch)
        self._accused: set[int] = set()
        self._alive = np.ones(code.n, dtype=bool)
        self._coming = np.zeros(code.n, dtype=bool)
        """Lost, and about to be replaced."""
        self.replaced: list[int] = []
        self._fresh: list[int] = []
        """Whose compressor has begun afresh since the last step."""
        self._gradient = aligned_vector(optimizer.parameters.size)

    def run(self, steps: int) -> Iterator[StepRecord]:
        """Train until ``steps`` steps are done and stop the workers; yields a record after each step.

        The last record comes after the shutdown, and counts what was drained in it. Before, the states of the workers'
        compressors are collected.

        Raises
        ------
        TooManyLost : the wait rule can't be met any more, or nobody answers.
        WorkerError, Interrupted : from the transport.
        """
        for step in range(self.steps_done, steps):
            before = self.transport.traffic.copy()
            record = self._step(step)
            self.steps_done = step + 1
            if step == steps - 1:
                record.late += self.collect_states() + self.transport.close()
            record.ledger = Ledger.between(before, self.transport.traffic)
            yield record

    def resume(
        self, step: int, accepted: IntVector, states: Mapping[int, Buffer], downlink: Mapping[str, np.ndarray]
    ) -> list[int]:
        """Go on after ``step`` steps, with what a checkpoint says of the workers; the parameters are the optimizer's.

        ``downlink``: what :meth:`downlink_state` was. Returns the workers that begin afresh because the checkpoint has not
        got their compressor's state.
        """
        self.steps_done = step
        arrays = dict(downlink)
        self.agreed = arrays.pop(_AGREED, None)
        self.downlink.load(arrays)
        self.downlink.restart(step)
        self.accepted[:] = accepted
        for worker, saved in states.items():
            state = WorkerState(worker, int(accepted[worker]), saved)
            self.states.take(state)
            self.transport.load(state)
        fresh = self.states.missing(self.accepted)
        self.accepted[fresh] = -1
        self._fresh = list(fresh)
        return fresh

    def downlink_state(self) -> dict[str, np.ndarray]:
        """Return copies of what the next step's tasks depend on, beside the parameters, by name."""
        agreed = {} if self.agreed is None else {_AGREED: self.agreed.copy()}
        return {**self.downlink.state(), **agreed}

    def ask_for_states(self) -> None:
        """Ask the workers for the states that :attr:`states` has not got; they come while the run goes on."""
        for worker in self.silent(self.accepted):
            self.transport.save(worker, int(self.accepted[worker]))

    def silent(self, accepted: IntVector) -> list[int]:
        """Return the workers alive whose compressor's state as of ``accepted``, (n,), has not come."""
        return [worker for worker in self.states.missing(accepted) if self._alive[worker]]

    def collect_states(self) -> int:
        """Ask for the states and wait for them, but not for ever; returns the number of replies dropped meanwhile."""
        dropped = 0
        self.ask_for_states()
        until = self.transport.now() + _COLLECT_SECONDS
        while self.silent(self.accepted):
            try:
                received = self.transport.receive(until, self.code.n)
            except WorkerLost as lost:
                self._alive[lost.worker] = False
                continue
            except WorkerError:
                continue  # too late to matter
            if received is None:
                break
            if isinstance(received, Joined):
                continue
            if isinstance(received, WorkerState):
                self.states.take(received)
                until = self.transport.now() + _COLLECT_SECONDS
            else:
                dropped += len(received.rows)
        return dropped

    def _step(self, step: int) -> StepRecord:
        clock = self.transport.now
        began = clock()
        task = Task(step, self.accepted.copy(), self.downlink.model, self.agreed, self.downlink.content)
        for worker in np.flatnonzero(self._alive):
            self.transport.send(int(worker), task)
        sent = clock()
        gathered = _Gathered(self.code.n)
        timed_out = self._gather(task, began, gathered)
        waited = clock()
        disagreed = self._verify(step, gathered)

        rows, payloads = gathered.table(), gathered.payloads()
        noise = self._noise(payloads) if self.code.decoder.needs_noise else None
        a = self.code.decoding_vector(gathered.arrived, noise)
        messages = [
            Message(payload, float(a[i]), Draw(self.seed, step, i, int(self.code.shifts[i]), self.agreed))
            for i, payload in payloads.items()
            if a[i] != 0.0
        ]
        self.codec.decode(messages, self._gradient)
        self.code.decoder.finish(self._gradient)
        with np.errstate(over="ignore", invalid="ignore"):  # a run may diverge
            norm = float(np.linalg.norm(self._gradient)) if self._gradient.size else math.nan
        self.transport.decoded(len(rows))
        decoded = clock()
        self.downlink.step(self._gradient, messages, a)
        if payloads and self.codec.agreed_count:
            self.agreed = self.codec.agree(list(payloads.values()))
        self.transport.stepped()
        ended = clock()
        # A reply decoded with weight zero was not used: its sender keeps its residual.
        self.accepted[gathered.arrived & (a != 0.0)] = step
        record = StepRecord(
            step=step,
            seconds=ended - began,
            train_loss=float(sum((a[rows["worker"]] * rows["loss"]).tolist())),
            replies=rows["worker"].tolist(),
            late=len(gathered.late_rows),
            decoding_error=self.code.decoding_error(a),
            noise_gain=noise_gain(a),
            gradient_norm=norm,
            timed_out=timed_out,
            lost=self.lost,
            disagreed=disagreed,
            clipped=int(rows["clipped"].sum()),
            fresh=sorted(self._fresh),
            coverage=self.code.coverage(a),
            timing=StepTiming(began, sent, waited, decoded, ended, rows, gathered.late_rows),
        )
        self._fresh = gathered.joined
        return record

    @property
    def lost(self) -> list[int]:
        """The ids of the workers that are gone."""
        return [int(worker) for worker in np.flatnonzero(~self._alive)]

    @property
    def losses_left(self) -> int:
        """How many more workers may be lost, whoever they are."""
        return self.wait.losses_left(self._alive)

    def _welcome(self, joined: Joined, step: int) -> None:
        """Go on with a spare in a lost worker's place; nothing of what that one left unsent is known."""
        self._alive[joined.worker] = True
        self._coming[joined.worker] = False
        self.accepted[joined.worker] = -1
        self.states.forget(joined.worker)
        self.replaced.append(joined.worker)
        self.say(f"step {step}: {joined.name} has taken the lost one's place")

    def _verify(self, step: int, gathered: _Gathered) -> list[int]:
        """Drop replies that are not what their replicas sent; return the workers that are, or may be, at fault."""
        if self.replicas is None:
            return []
        verdict = self.replicas.compare(gathered.payloads())
        for workers, what in (
            (verdict.outvoted, "outvoted"),
            (verdict.disputed, "too few to tell which is wrong: all are used"),
        ):
            if set(workers) - self._accused:
                names = ", ".join(map(str, workers))
                self.say(f"step {step}: the reply of worker {names} is not, to the bit, that of its replicas ({what})")
                self._accused |= set(workers)
        for worker in verdict.outvoted:
            gathered.drop(worker)
        return sorted({*verdict.outvoted, *verdict.disputed})

    def _noise(self, payloads: dict[int, Buffer]) -> Weights:
        """Return v, (n,): the noise energy of each reply as a share of the signal energy of all; see the MMSE decoder."""
        v = np.zeros(self.code.n)
        total = 0.0
        for worker, payload in payloads.items():
            signal, v[worker] = self.codec.energy(payload, self.agreed)
            total += signal
        return v / total if total > 0.0 else v * 0.0

    def _gather(self, task: Task, began: float, gathered: _Gathered) -> bool:
        """Collect replies to ``task`` until the wait rule is met; return whether it timed out instead."""
        step = task.step
        arrived = gathered.arrived
        next_news = began + _NEWS_SECONDS
        while True:
            expected = (self._alive | self._coming) & ~arrived
            if arrived.any() and (not expected.any() or self.wait.enough(arrived)):
                return False
            patience = self.wait.patience if arrived.any() else self.wait.timeout
            until = began + min(patience, self.wait.timeout)
            try:
                received = self.transport.receive(min(until, next_news), self.wait.lacking(arrived))
            except WorkerLost as lost:
                self._without(lost, step)
                continue
            if isinstance(received, WorkerState):
                self.states.take(received)
                continue
            if isinstance(received, Joined):
                self._welcome(received, step)
                if arrived[received.worker]:
                    gathered.joined.append(received.worker)
                else:
                    self._fresh.append(received.worker)
                    self.transport.send(received.worker, task)
                continue
            if received is None:
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
            gathered.take(received, step)

    def _without(self, lost: WorkerLost, step: int) -> None:
        """Go on without a worker, or raise TooManyLost."""
        self._alive[lost.worker] = False
        self._coming[lost.worker] = bool(lost.replaced)
        if lost.replaced:
            self.say(f"step {step}: {lost}; {lost.replaced} takes its place")
            return
        if not self.wait.feasible(self._alive | self._coming):
            raise TooManyLost(
                f"step {step}: {lost}; the {int(self._alive.sum())} workers left are too few for the wait rule "
                f"(lost: {', '.join(map(str, self.lost))})"
            ) from lost
        self.say(f"step {step}: {lost}; the run goes on, {self.losses_left} more may go")


class _Gathered:
    """The replies of one step."""

    def __init__(self, n: int) -> None:
        self.arrived = np.zeros(n, dtype=bool)
        self.late_rows: Rows = rows_of(0)
        self.joined: list[int] = []
        """Spares that took the place of a worker whose reply had arrived."""
        self._rows: list[Rows] = []
        self._messages: dict[int, Buffer] = {}

    def take(self, replies: Replies, step: int) -> None:
        """Keep the replies to this step; count all others as late."""
        workers = replies.rows["worker"]
        fresh = (replies.rows["step"] == step) & ~self.arrived[workers]
        if not fresh.all():
            self.late_rows = np.concatenate([self.late_rows, replies.rows[~fresh]])
        self.arrived[workers[fresh]] = True
        self._rows.append(replies.rows[fresh])
        if replies.messages:
            self._messages.update((int(workers[i]), replies.messages[int(i)]) for i in np.flatnonzero(fresh))

    def drop(self, worker: int) -> None:
        """Treat a worker as if it had not replied."""
        self.arrived[worker] = False
        self._messages.pop(worker, None)

    def table(self) -> Rows:
        """Return the replies' table, in worker order."""
        rows: Rows = np.concatenate(self._rows)
        rows = rows[self.arrived[rows["worker"]]]
        order = np.argsort(rows["worker"])
        return rows[order]

    def payloads(self) -> dict[int, Buffer]:
        """Return the replies' payloads by worker, in worker order; none where the transport moves no data."""
        return {worker: self._messages[worker][HEADER_BYTES:] for worker in sorted(self._messages)}

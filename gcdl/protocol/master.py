"""The master's loop: send, gather, decode, step, record. It knows no MPI, and there is no second copy of it.

Replies are decoded in worker order, not in order of arrival, so that the arrived sets alone decide the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gcdl.codes import GradientCode, noise_gain, noise_shares
from gcdl.errors import Interrupted, TooManyLost, WorkerError, WorkerLost
from gcdl.protocol.coding import Coding
from gcdl.protocol.compressor_states import CompressorStates
from gcdl.protocol.gathered import Gathered
from gcdl.protocol.gathering import Gathering
from gcdl.protocol.ledger import Ledger, Traffic
from gcdl.protocol.measurements import StepTiming
from gcdl.protocol.membership import Membership
from gcdl.protocol.model_slices import ModelSlices, norm_of
from gcdl.protocol.recoding import CodeChange, NeverRecode, Recoder
from gcdl.protocol.replica_check import Replicas
from gcdl.protocol.step_record import StepRecord
from gcdl.protocol.tasks import Replies, Task, WorkerState
from gcdl.protocol.transport import Transport
from gcdl.protocol.wait_rules import LearnsReplyTimes, WaitRule, learn_from
from gcdl.types import Buffer, IntVector, Vector, Weights

_COLLECT_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class _Begun:
    """A step whose tasks have gone out: when, on the transport's clock, and what had been sent and received before."""

    task: Task
    began: float
    sent: float
    before: Traffic


class Master:
    """Trains ``slices.parameters``.

    Parameters
    ----------
    transport : the way to the workers.
    code : decodes what they send, until it is re-coded.
    slices : the model.
    wait : when to stop waiting, until then.
    recoder : says when another code is to hold; None: never.
    state_bytes : the size of a compressor's state; 0: it has none.
    replicas : compares replies that should be the same, if it is given.
    scratch : a folder for what is large and not to be kept.
    say : is told whom a step waits for when it waits long.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        code: GradientCode,
        slices: ModelSlices,
        wait: WaitRule,
        state_bytes: int = 0,
        replicas: Replicas | None = None,
        recoder: Recoder | None = None,
        scratch: Path | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.transport = transport
        self.coding = CodeChange(Coding(0, code, wait, replicas), transport)
        self.slices = slices
        self.say = say
        self.steps_done = 0
        self.accepted = np.full(code.n, -1, dtype=np.int64)
        """(n,): the last step decoded with each worker's reply; -1: none yet."""
        self.states = CompressorStates(code.n, state_bytes, scratch)
        self._recoder: Recoder = recoder or NeverRecode()
        self.members = Membership(code.n, wait, say, recodes=self._recoder.replaces_lost)
        self._gathering = Gathering(transport, self.coding, self.members, self._recoder, self.accepted, self.states, say)
        self._accused: set[int] = set()
        """Workers whose replies were found to differ from those of their replicas."""
        self._begun: _Begun | None = None
        """The step that comes next, if its tasks have gone out already."""
        self.reader: Callable[[], object] | None = None
        """Waits for whoever reads the model, which must not change before."""

    @property
    def code(self) -> GradientCode:
        """The code that holds."""
        return self.coding.now.code

    @property
    def wait(self) -> WaitRule:
        """The wait rule that holds."""
        return self.coding.now.wait

    def run(self, steps: int, send_ahead: Callable[[StepRecord], bool] = lambda record: False) -> Iterator[StepRecord]:
        """Train until ``steps`` steps are done and stop the workers; yields a record after each step.

        ``send_ahead`` is asked after each step but the last whether the next step's tasks may go out before the record is
        yielded. Then the workers compute while the caller looks at the record. These tasks' bytes count for the next step.

        After the last step the states of the workers' compressors are collected, and the workers are stopped. Only then comes
        the last record, which counts what was drained. If that is interrupted, or the next step can't begin, the record still
        comes, and then the error is raised.

        Raises
        ------
        TooManyLost : the wait rule can't be met any more, or nobody answers.
        WorkerError, Interrupted : from the transport.
        """
        for step in range(self.steps_done, steps):
            begun = self._begin(step) if self._begun is None else self._begun
            self._begun, ended = None, None
            record = self._step(begun)
            self.steps_done = step + 1
            try:
                if step == steps - 1:
                    self._end(record)
                elif send_ahead(record):
                    self._begun = self._begin(step + 1)
            except (Interrupted, TooManyLost, WorkerError) as error:
                ended = error
            record.ledger = Ledger.between(begun.before, self.transport.traffic if self._begun is None else self._begun.before)
            yield record
            if ended is not None:
                raise ended

    def _end(self, record: StepRecord) -> None:
        """Collect the final states and stop the workers, in the last step."""
        self.slices.collect(states=True)
        record.late += self.collect_states() + self.transport.close()

    # -- one step

    def _begin(self, step: int) -> _Begun:
        """Send a step's tasks to all workers that are alive and have a row of the code that holds.

        Raises
        ------
        TooManyLost : see :meth:`_recode`.
        """
        before = self.transport.traffic.copy()
        began = self.transport.now()
        self._gathering.recode(step)
        slices = self.slices
        task = Task(step, self.accepted.copy(), slices.model, slices.agreed, slices.content, self.coding.now.number)
        for worker in np.flatnonzero(self.coding.able(self.members.alive)):
            self.transport.send(int(worker), task)
        return _Begun(task, began, self.transport.now(), before)

    def _step(self, begun: _Begun) -> StepRecord:
        """Gather and decode the replies to a step's tasks, and step the model."""
        clock = self.transport.now
        step = begun.task.step
        gathered = self._gathering.gather(begun.task, begun.began)
        waited = clock()
        disagreed = self._verify(step, gathered)
        a, norm = self._decode(step, gathered)
        decoded = clock()
        lr = self.slices.lr
        if self.reader is not None:
            self.reader()
            self.reader = None
        self.slices.step(norm)
        self.transport.stepped()
        ended = clock()
        # A reply decoded with weight zero was not used: its sender keeps its residual.
        self.accepted[gathered.arrived & (a != 0.0)] = step
        rows = gathered.table()
        timing = StepTiming(begun.began, begun.sent, waited, decoded, ended, rows, gathered.late)
        if isinstance(self.wait, LearnsReplyTimes):
            learn_from(self.wait, timing, self.members.expected())
        record = self._record(step, timing, a, norm, gathered, disagreed)
        record.lr = lr
        self._recoder.saw(step, self.coding.now, timing)
        return record

    def _verify(self, step: int, gathered: Gathered) -> list[int]:
        """Drop replies that are not what their replicas sent; return the workers that are, or may be, at fault."""
        replicas = self.coding.now.replicas
        if replicas is None:
            return []
        verdict = replicas.compare(self.slices.identities(step, gathered.payloads()))
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

    def _decode(self, step: int, gathered: Gathered) -> tuple[Weights, float]:
        """Decode the replies; return the decoding vector a, (n,), and the norm of the decoded gradient."""
        payloads = gathered.payloads()
        energies = self.slices.energies(step, payloads) if self.code.decoder.needs_noise else None
        noise = None if energies is None else noise_shares(energies, self.code.n)
        a = self.code.decoding_vector(gathered.arrived, noise)
        norm = norm_of(self.slices.decode(step, a, payloads))
        self.transport.decoded(int(gathered.arrived.sum()))
        return a, norm

    def _record(
        self, step: int, timing: StepTiming, a: Weights, norm: float, gathered: Gathered, disagreed: list[int]
    ) -> StepRecord:
        rows = timing.replies
        record = StepRecord(
            step=step,
            seconds=timing.ended - timing.began,
            train_loss=float(sum((a[rows["worker"]] * rows["loss"]).tolist())),
            replies=rows["worker"].tolist(),
            late=len(gathered.late),
            decoding_error=self.code.decoding_error(a),
            noise_gain=noise_gain(a),
            gradient_norm=norm,
            timed_out=gathered.timed_out,
            lost=self.members.lost,
            disagreed=disagreed,
            clipped=int(rows["clipped"].sum()),
            fresh=sorted(set(self._gathering.fresh)),
            coverage=self.code.coverage(a),
            timing=timing,
            recoded=self._gathering.recoded,
        )
        self._gathering.fresh, self._gathering.recoded = gathered.joined, None
        return record

    # -- checkpoints

    def resume(
        self,
        step: int,
        accepted: IntVector,
        states: Mapping[int, Buffer],
        parameters: Vector,
        optimizer: Mapping[str, np.ndarray],
        downlink: Mapping[str, np.ndarray],
        *,
        fresh: Sequence[int] = (),
        recoded: bool = False,
    ) -> list[int]:
        """Go on after ``step`` steps, with what a checkpoint says of the model and of the workers.

        ``fresh`` : the workers that begin afresh because the checkpoint is of another code or compressor; ``recoded``: it is.
        Returns the workers that begin afresh because the checkpoint has not got their compressor's state.
        """
        if recoded:
            self._gathering.recoded = {**self.coding.now.recorded(), "configured": True}
        self.steps_done = step
        self.slices.load(step, parameters, optimizer, downlink)
        self.accepted[:] = accepted
        for worker, saved in states.items():
            state = WorkerState(worker, int(accepted[worker]), saved)
            self.states.take(state)
            self.transport.load(state)
        missing = self.states.missing(self.accepted)
        self.accepted[missing] = -1
        self._gathering.fresh = [*fresh, *missing]
        return missing

    def ask_for_states(self) -> None:
        """Ask the workers for the states that :attr:`states` has not got; they come while the run goes on."""
        for worker in self.silent(self.accepted):
            self.transport.save(worker, int(self.accepted[worker]))

    def silent(self, accepted: IntVector) -> list[int]:
        """Return the workers alive whose compressor's state as of ``accepted``, (n,), has not come."""
        return [worker for worker in self.states.missing(accepted) if self.members.alive[worker]]

    def collect_states(self) -> int:
        """Ask for the states and wait for them, but not for ever; returns the number of replies dropped meanwhile."""
        dropped = 0
        self.ask_for_states()
        until = self.transport.now() + _COLLECT_SECONDS
        while self.silent(self.accepted):
            try:
                received = self.transport.receive(until, self.code.n)
            except WorkerLost as lost:
                self.members.alive[lost.worker] = False
                continue
            except WorkerError:
                continue  # too late to matter
            if received is None:
                break
            if isinstance(received, WorkerState):
                self.states.take(received)
                until = self.transport.now() + _COLLECT_SECONDS
            elif isinstance(received, Replies):
                dropped += len(received.rows)
        return dropped

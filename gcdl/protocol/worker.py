"""A worker: from a task to a reply. No I/O, and no clock of its own.

:meth:`Worker.handle` is a generator. It yields wherever the worker sleeps, or can be told that its task is superseded. The
transport decides what such a pause is: real seconds and a look at the inbox, or virtual seconds. It may drop the generator
there. A dropped task changes nothing: the worker's own state is updated only when a reply is complete.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gcdl.compressors import Codec, Draw
from gcdl.errors import MessageError, NonFiniteGradient
from gcdl.problems import CodedGradient
from gcdl.protocol.coding import CodeRow
from gcdl.protocol.evaluation_share import EvaluationShare
from gcdl.protocol.tasks import Reply, Task
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.stragglers import AnyModel, Fault, InjectedError, delays_at
from gcdl.types import Buffer, Layout, Sums, Vector, aligned_buffer, aligned_vector


@dataclass(frozen=True, slots=True)
class Sleep:
    """The worker sleeps for ``seconds`` (inf: until it is superseded); ``computed``: it has computed already."""

    seconds: float
    computed: bool = False


@dataclass(frozen=True, slots=True)
class Slowdown:
    """The worker's machine is slow: it sleeps ``factor`` - 1 times as long as it has computed for this task."""

    factor: float


@dataclass(frozen=True, slots=True)
class Work:
    """The worker is about to compute the gradients of this many ``shards``."""

    shards: float


@dataclass(frozen=True, slots=True)
class Encode:
    """The worker is about to overwrite its last reply; pointless if it is superseded by now."""


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault strikes the worker's process: kill or stop."""

    fault: Fault


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The worker has evaluated its share of the model of ``step``: ``sums``, (pieces, columns). The gradient comes next."""

    step: int
    sums: Sums


Pause = Sleep | Slowdown | Work | Encode | Struck | Evaluated
Load = Callable[[CodeRow], Callable[[], CodedGradient]]
"""Loads the shards of a row, which may happen in another thread; returns what then makes the coded gradient, which may not."""


class Worker:
    """One worker's gradient, compressor and delays.

    Parameters
    ----------
    worker : its id.
    n : the number of workers.
    gradient : the coded gradient of its shards.
    codec, layout : the compressor at work on the model's layout.
    stragglers : draws the injected delays.
    seed : the run's.
    shift : its place under correlated dither; see :class:`gcdl.compressors.Draw`.
    faults : strike this worker, once each.
    coded : what the coded gradient is computed into, (d,), where that is not this process's memory: a tensor on a GPU.
    load_row : loads the shards of another row of the code; None: the row stays what it is.
    share : what it evaluates; None: nothing.
    """

    def __init__(
        self,
        worker: int,
        n: int,
        *,
        gradient: CodedGradient,
        codec: Codec,
        layout: Layout,
        stragglers: AnyModel,
        seed: int,
        shift: int = 0,
        faults: Sequence[Fault] = (),
        coded: Any = None,
        load_row: Load | None = None,
        share: EvaluationShare | None = None,
    ) -> None:
        self.worker = worker
        self.n = n
        self.layout = layout
        self.seed = seed
        self.shift = shift
        self._gradient = gradient
        self._codec = codec
        self._stragglers = stragglers
        self._faults = list(faults)
        self._state = codec.init()
        self._coded = aligned_vector(layout.size) if coded is None else coded
        self._message = aligned_buffer(HEADER_BYTES + codec.payload_bytes)
        self._saved = aligned_buffer(HEADER_BYTES + codec.state_bytes)
        self._load_row = load_row
        self._share = share
        self._coding = 0
        """The number of the code that the gradient is of."""
        self._prepared: dict[int, tuple[Callable[[], CodedGradient], bool]] = {}
        """By the number of their code: makes the gradient, and whether the compressor begins afresh with it."""

    def handle(self, task: Task) -> Generator[Pause, None, Reply]:
        """Work on a task; see the module. The reply's message is valid until the next task is handled to its end.

        Raises
        ------
        NonFiniteGradient : the coded gradient has a NaN or an infinity.
        InjectedError : a fault says so.
        MessageError : it has not been given its row of the code that the task is of.
        """
        if task.coding != self._coding:
            self._change_row(task.coding)
        self._state = self._codec.settle(self._state, int(task.accepted[self.worker]))
        if self._share is not None and self._share.due(task.step):
            yield from self._evaluate(self._share, task)
        delays = delays_at(self._stragglers, self.n, self.seed, task.step)
        sleep = float(delays.before_compute[self.worker])
        corrupt = False
        for fault in self._strike(task.step):
            if fault.fault == "raise":
                raise InjectedError(self.worker, task.step)
            if fault.fault == "slow":
                sleep += fault.seconds
            elif fault.fault == "corrupt":
                corrupt = True
            else:
                yield Struck(fault)
        if sleep > 0.0:
            yield Sleep(sleep)
        loss = 0.0
        stretches = self._gradient.compute(task.model, task.step, self._coded)
        while True:
            try:
                shards = next(stretches)
            except StopIteration as done:
                loss = done.value
                break
            yield Work(shards)
        if delays.factor[self.worker] > 1.0:
            yield Slowdown(float(delays.factor[self.worker]))
        if delays.before_send[self.worker] > 0.0:
            yield Sleep(float(delays.before_send[self.worker]), computed=True)
        # Only here does the state change: a task dropped in any pause leaves it as it was.
        yield Encode()
        self._check_finite(task.step)
        draw = Draw(self.seed, task.step, self.worker, self.shift, task.agreed)
        self._state = self._codec.compress(self._coded, self._state, draw, self._message[HEADER_BYTES:])
        return Reply(self.worker, task.step, loss, self._message, clipped=self._codec.clipped, corrupt=corrupt)

    def _evaluate(self, share: EvaluationShare, task: Task) -> Generator[Pause, None, None]:
        """Evaluate this worker's share of the model that the task brings."""
        found = []
        for sums in share.sums(task.model):
            found.append(sums)
            yield Work(0.0)
        yield Evaluated(task.step, np.array(found))

    def _strike(self, step: int) -> Iterator[Fault]:
        """Yield the faults that strike now; one that was yielded won't again."""
        for fault in [fault for fault in self._faults if fault.step <= step]:
            self._faults.remove(fault)
            yield fault

    @property
    def agreed_count(self) -> int:
        """How many scales the workers agree on."""
        return self._codec.agreed_count

    @property
    def state_bytes(self) -> int:
        """The size of what :meth:`save` returns, the header left out."""
        return self._codec.state_bytes

    def save(self, accepted: int) -> Buffer:
        """Return the compressor's state as of ``accepted``, the last step decoded with this worker's reply.

        It starts at HEADER_BYTES of the buffer, which is valid until the next call.
        """
        self._state = self._codec.settle(self._state, accepted)
        self._codec.dump(self._state, self._saved[HEADER_BYTES:])
        return self._saved

    def load(self, saved: Buffer) -> None:
        """Begin with a state that was saved, (state_bytes,)."""
        self._state = self._codec.load(saved)

    def finish(self, task: Task) -> Reply:
        """Do a task from beginning to end, without a pause: for a transport whose clock is not a real one."""
        job = self.handle(task)
        while True:
            try:
                next(job)
            except StopIteration as done:
                reply: Reply = done.value
                return reply

    def load_row(self, row: CodeRow) -> Callable[[], CodedGradient]:
        """Load the shards of another row, which may happen in a thread of its own; hand the result to :meth:`prepare`.

        Raises
        ------
        DataError : they can't be read.
        """
        assert self._load_row is not None
        return self._load_row(row)

    def prepare(self, number: int, gradient: Callable[[], CodedGradient], *, fresh: bool) -> None:
        """Take a row that was loaded. It holds from the first task on that is of code ``number``.

        ``fresh``: the compressor forgets its state then.
        """
        self._prepared[number] = gradient, fresh

    def _change_row(self, number: int) -> None:
        """Compute another row of the code from now on; rows of earlier codes are forgotten."""
        if number not in self._prepared:
            raise MessageError(f"worker {self.worker}: a task of code {number}, of which it has no row")
        make, fresh = self._prepared[number]
        self._gradient, self._coding = make(), number
        if fresh:
            self._state = self._codec.init()
        self._prepared = {later: row for later, row in self._prepared.items() if later > number}

    def begin_afresh(self) -> None:
        """Forget the compressor's state."""
        self._state = self._codec.init()

    def _check_finite(self, step: int) -> None:
        """A sign has no NaN: look before compressing. The sum is a cheap first look; it may also just overflow."""
        coded = self._coded
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not math.isfinite(float(coded.sum()))
        if suspicious:
            here: Vector = coded if isinstance(coded, np.ndarray) else coded.cpu().numpy()
            bad = np.flatnonzero(~np.isfinite(here))
            if bad.size:
                raise NonFiniteGradient(self.worker, step, self.layout.tensor_at(int(bad[0])))

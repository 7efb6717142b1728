"""The transport between MPI ranks: :class:`MpiTransport` on rank 0, :func:`gcdl.transport.mpi.worker_end.serve` on the others.

How it waits. A blocking MPI call spins on a core that somebody else computes on. Here every wait tests single requests and
sleeps in between, the less the more traffic there is (:class:`gcdl.transport.mpi.backoff.Backoff`); deadlines and
cancellation come for free.

How a task supersedes another. Tasks travel by synchronous sends: one is complete when the worker has begun to receive it.
So there is never more than one task on its way to a worker, however long the worker is away; a newer one waits at the
master, always in its newest version, and a 64-byte SUPERSEDED note follows the one on its way. A worker that comes back
finds the old task, the note behind it, and receives the newest task next, without starting on the old one.

How buffers live. What goes to several workers is written once, to a buffer that all these sends share; it returns to the
pool when the last of them is complete. Each worker has its own receive buffer at the master. A worker has two: the model
it computes at lies in one while the next one lands in the other.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence

from gcdl.errors import Interrupted, TooManyLost, WorkerLost
from gcdl.protocol.coding import CodeRow, with_row
from gcdl.protocol.ledger import Traffic
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.tasks import Joined, Loaded, Replies, Reply, Task, WorkerState
from gcdl.protocol.wire import HEADER_BYTES, Kind, bare, is_of_kind, with_state
from gcdl.transport.mpi.backoff import Backoff
from gcdl.transport.mpi.job import Job, check_size
from gcdl.transport.mpi.lost_workers import LostWorkers
from gcdl.transport.mpi.other_masters import OtherMasters
from gcdl.transport.mpi.peer_messages import PeerMessages
from gcdl.transport.mpi.peers import Peers
from gcdl.transport.mpi.respawn import Replacements
from gcdl.transport.mpi.shared_memory import Board
from gcdl.transport.mpi.shutdown import Shutdown
from gcdl.transport.mpi.task_sender import Lanes
from gcdl.types import Buffer

_NEWS_SECONDS = 10.0


class MpiTransport:
    """The master's end.

    Parameters
    ----------
    job : this rank is the master, the others are the workers.
    run : the run's id, in every message.
    interrupted : asked while waiting; true raises Interrupted.
    say : takes a line for the user.
    spares : ranks beyond the workers', each to take the place of a lost one.
    replacements : starts new processes in the place of lost ones, when there is no spare.
    masters : ranks 0 .. masters - 1 are masters, the workers follow them.
    shared_memory : workers of one host may read what they are sent in each other's memory, and whole models in the master's.
    """

    def __init__(
        self,
        job: Job,
        *,
        run: int,
        interrupted: Callable[[], bool],
        say: Callable[[str], None],
        spares: int = 0,
        replacements: Replacements | None = None,
        masters: int = 1,
        shared_memory: bool = False,
    ) -> None:
        self.n = job.size - masters - spares
        self.traffic = Traffic(self.n)
        self.traffic.control = job.told_bytes
        self.abandoned: list[int] = []
        """Workers that had not stopped when :meth:`close` gave up waiting."""
        self.idle: Sequence[int] = ()
        """On rank 0: ranks of masters that have no slice of the model, and only wait for the end."""
        self._job = job
        self._run = run
        self._interrupted = interrupted
        self._say = say
        self._leads = job.rank == 0
        """Whether this master decides: it replaces lost workers, and ends those that do not stop."""
        self._shared_memory = shared_memory
        self._closed = False
        self._others: OtherMasters | None = None
        self._partial: dict[int, Reply] = {}
        """Replies of which the other masters have not got all slices yet, by worker."""
        self._lanes = Lanes(run, TaskFormat(self.n), self.traffic, platform.node())
        workers = range(masters, masters + self.n)
        self._peers = Peers(job, self._lanes, workers, range(workers.stop, job.size), say)
        self._lost = LostWorkers(self._peers, run, replacements, leads=self._leads, forget=self._forget)
        self._messages = PeerMessages(run, self._lanes, self.traffic, say, self._lost.take_place, shared_memory=shared_memory)
        self._shutdown = Shutdown(job, self._peers, self._lanes, self._messages, say)

    def attach(self, others: OtherMasters) -> None:
        """On rank 0: from now on a reply has come when the other masters have their slices of it too."""
        self._others = others
        others.traffic = self.traffic

    def take_evaluations(self, take: Callable[[int, int, Buffer], None], most_bytes: int) -> None:
        """Hand to ``take`` (worker, step, body) what workers evaluate, ``most_bytes`` at most; before :meth:`start`."""
        self._messages.evaluated, self._messages.evaluated_bytes = take, most_bytes

    # -- the Transport protocol

    def now(self) -> float:
        """Return seconds on this machine's monotonic clock."""
        return time.monotonic()

    def send(self, worker: int, task: Task) -> None:
        """Hand a task to a worker; see the module."""
        peer = self._peers.workers[worker]
        if peer.gone:
            return
        self._lanes.offer(peer.lane, task)
        peer.lane.idle = peer.replied == peer.newest
        peer.newest = task.step
        peer.reply_in_use, peer.awaited = False, True
        self._forget(worker)
        self._peers.post(peer)
        self._peers.flush(peer)

    def load(self, state: WorkerState) -> None:
        """Hand a worker its state; the message goes before all tasks."""
        message = with_state(self._run, state.worker, state.accepted, state.saved)
        self._peers.note(self._peers.workers[state.worker], message)

    def save(self, worker: int, accepted: int) -> None:
        """Ask a worker for its state; see :class:`gcdl.protocol.transport.Transport`."""
        peer = self._peers.workers[worker]
        peer.reply_in_use = peer.awaited = False
        self._peers.note(peer, bare(Kind.SAVE, self._run, worker=worker, step=accepted))

    def recode(self, worker: int, number: int, row: CodeRow, *, fresh: bool) -> bool:
        """Let a worker load the shards of a row, which it does beside its tasks."""
        peer = self._peers.workers[worker]
        peer.reply_in_use = peer.awaited = False
        self._peers.note(peer, with_row(self._run, worker, number, row, fresh=fresh))
        return False

    def receive(self, until: float, at_most: int = 1) -> Replies | WorkerState | Joined | Loaded | None:
        """Return the next replies; see :class:`gcdl.protocol.transport.Transport`."""
        backoff = Backoff(at_most)
        while True:
            if self._interrupted():
                raise Interrupted("interrupted")
            received = self.poll(at_most)
            if received is not None:
                return Replies.of(received, self.now()) if isinstance(received, list) else received
            left = until - time.monotonic()
            if left <= 0.0:
                return None
            backoff.sleep(left)

    def poll(self, at_most: int) -> list[Reply] | WorkerState | Joined | Loaded | None:
        """Move all messages on, and return what has come from workers, if anything has: ``at_most`` replies. Never blocks.

        Raises
        ------
        WorkerLost, WorkerError
        """
        if not self._peers.arrived:
            self._lost.deal()
            self._peers.advance()
        if self._others is not None:
            self._others.poll()
        replies: list[Reply] = []
        while self._peers.arrived and len(replies) < at_most:
            peer, _ = self._peers.arrived[0]
            if peer.gone and peer not in self._peers.workers:  # another process has its place by now
                self._peers.take()
                continue
            if replies and not is_of_kind(peer.inbox, Kind.REPLY):
                break
            received = self._messages.read(*self._peers.take())
            if isinstance(received, Reply):
                if self._others is not None and peer.reply_in_use:
                    self._partial[peer.worker] = received
                else:
                    replies.append(received)
            elif received is not None:
                return received
        return self._with_completed(replies, at_most) or None

    def _with_completed(self, replies: list[Reply], at_most: int) -> list[Reply]:
        """Add replies whose slices are all there by now: the other masters say what they hold."""
        if self._others is not None:
            hold, workers = self._others.hold, self._peers.workers
            complete = [worker for worker, reply in self._partial.items() if hold(worker, workers[worker].rank, reply.step)]
            replies += [self._partial.pop(worker) for worker in complete[: max(0, at_most - len(replies))]]
        return replies

    def _forget(self, worker: int) -> None:
        """Drop a worker's newest reply, if it is not complete yet."""
        self._partial.pop(worker, None)

    def decoded(self, replies: int) -> None:
        """The clock is real: nothing to do."""

    def stepped(self) -> None:
        """The clock is real: nothing to do."""

    def close(self) -> int:
        """Stop the workers, drain, and wait for their goodbyes, but not for ever: see ``abandoned``."""
        if self._closed:
            return 0
        self._closed = True
        if self._others is not None:
            self._others.stop()
        self._lost.await_newcomers()
        self._shutdown.stop()
        dropped = self._shutdown.drain()
        if self._leads:
            waiting = [peer for peer in self._peers.everyone() if peer.reported_bytes is not None]
            self._job.say_farewell_to([(peer.lane.comm, peer.lane.rank) for peer in waiting], self._run)
            self._job.add_farewell([(self._job.comm, rank) for rank in self.idle])
            self.abandoned = self._shutdown.give_up()
        self._shutdown.check_bytes()
        if self._others is not None:
            dropped += self._others.finish()
        return dropped

    # -- start-up

    def start(
        self,
        task_format: TaskFormat,
        reply_bytes: int,
        seconds: float,
        state_bytes: int = 0,
        whole_bytes: int = 0,
        ready: Callable[[int, int], None] = lambda ready, workers: None,
    ) -> None:
        """Wait until every worker has loaded its data.

        Parameters
        ----------
        task_format : how tasks lie in memory.
        reply_bytes : the size of a reply, header included.
        seconds : how long the workers may take.
        state_bytes : the size of a compressor's state.
        whole_bytes : the size of a model, where tasks carry the whole of it; else 0.
        ready : is told how many workers are ready, of how many, whenever that changes.

        Raises
        ------
        TooManyLost : some have not within ``seconds``; says which.
        UsageError : messages would be too large for MPI.
        WorkerError, WorkerLost, Interrupted : as :meth:`receive`.
        """
        check_size(reply_bytes, "a reply")
        check_size(HEADER_BYTES + state_bytes, "the state of a worker's compressor")
        check_size(task_format.overhead_bytes + whole_bytes, "a task with the model")
        self._lanes.task_format = task_format
        self._messages.reply_bytes = reply_bytes
        self._messages.state_bytes = state_bytes
        if whole_bytes and self._shared_memory:
            try:
                self._lanes.board = Board(whole_bytes)
            except OSError as error:
                self._say(f"no shared memory for the model ({error}): it is sent to each worker")
        began = time.monotonic()
        next_news = began + _NEWS_SECONDS
        known = -1
        while True:
            count = sum(peer.ready for peer in self._peers.workers)
            if count != known:
                ready(count, len(self._peers.workers))
                known = count
            if count == len(self._peers.workers):
                return
            try:
                self.receive(time.monotonic() + 0.05)
            except WorkerLost as lost:
                if not lost.replaced:
                    raise
                self._say(f"start-up: {lost}; {lost.replaced} takes its place")
            now = time.monotonic()
            missing = ", ".join(str(peer.worker) for peer in self._peers.workers if not peer.ready)
            if missing and now > began + seconds:
                raise TooManyLost(f"start-up: workers {missing} were not ready within {seconds:g} s")
            if missing and now > next_news:
                self._say(f"start-up: waiting for workers {missing} ({now - began:.0f} s)")
                next_news = now + _NEWS_SECONDS

    def rank_of(self, worker: int) -> int:
        """Return the rank of the process that is this worker."""
        return self._peers.workers[worker].rank

    def hosts(self) -> list[str]:
        """Return the host of each worker, known after :meth:`start`."""
        return [peer.host for peer in self._peers.workers]

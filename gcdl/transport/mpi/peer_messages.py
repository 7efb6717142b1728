"""What the messages of workers mean, and what a master does about each. Nothing is done before a message is checked whole."""

from __future__ import annotations

import platform
from collections.abc import Callable

from gcdl.errors import MessageError, WorkerError
from gcdl.host.processes import birth
from gcdl.protocol.ledger import Traffic
from gcdl.protocol.tasks import Joined, Loaded, Reply, WorkerState
from gcdl.protocol.wire import HEADER_BYTES, Header, Kind
from gcdl.transport.mpi.job import CONTROL_BYTES, PART_BYTES
from gcdl.transport.mpi.messages_in import Body
from gcdl.transport.mpi.peer import Peer
from gcdl.transport.mpi.shared_memory import Address
from gcdl.transport.mpi.task_sender import Lanes
from gcdl.types import Buffer, aligned_buffer


class PeerMessages:
    """Understands messages.

    Parameters
    ----------
    run : the run's id.
    lanes : the ways to the workers.
    traffic : counts what is received.
    say : takes a line for the user.
    take_place : lets a peer be a worker from now on whose place it says that it has taken.
    shared_memory : workers of one host may read what they are sent in each other's memory.

    Attributes
    ----------
    reply_bytes : the size of a reply, header included.
    state_bytes : the size of a compressor's state.
    evaluated : takes what a worker evaluated: (worker, step, body); None: workers evaluate nothing.
    evaluated_bytes : the size of the largest such body.
    """

    def __init__(
        self,
        run: int,
        lanes: Lanes,
        traffic: Traffic,
        say: Callable[[str], None],
        take_place: Callable[[Peer, int], None],
        *,
        shared_memory: bool,
    ) -> None:
        self.reply_bytes = HEADER_BYTES
        self.state_bytes = 0
        self.evaluated: Callable[[int, int, Buffer], None] | None = None
        self.evaluated_bytes = 0
        self._run = run
        self._lanes = lanes
        self._traffic = traffic
        self._say = say
        self._take_place = take_place
        self._shared_memory = shared_memory

    def read(self, peer: Peer, received: int) -> Reply | WorkerState | Joined | Loaded | None:
        """Read the message in a process's inbox, and do what it asks for; one that is none of this run's is dropped.

        Raises
        ------
        WorkerError : it says that the worker raised.
        """
        try:
            return self._understand(peer, Header.read(peer.inbox, received, self._run), received)
        except MessageError as error:
            self._traffic.foreign += 1
            self._say(f"dropped a message from {peer.name}: {error}")
            return None

    def _understand(self, peer: Peer, header: Header, received: int) -> Reply | WorkerState | Joined | Loaded | None:
        """Do what a message asks for; return what the master loop has to know of.

        Raises
        ------
        MessageError : it is not what it should be. Nothing was done then.
        WorkerError : it says that the worker raised.
        """
        if header.worker != peer.worker and header.kind not in (Kind.HELLO, Kind.READY):  # these may have no place yet
            raise MessageError(f"a message that says it is from worker {header.worker}")
        if header.kind is Kind.REPLY:
            return self._reply(peer, header, received)
        if header.kind is Kind.STATE:
            state: WorkerState | Joined | Loaded | None = self._state(peer, header, received)
        elif header.kind is Kind.LOADED:
            state = Loaded(peer.worker, header.step)
        elif header.kind is Kind.EVALUATED and self.evaluated is not None:
            self.evaluated(peer.worker, header.step, peer.inbox[HEADER_BYTES:received])
            state = None
        else:
            act = {
                Kind.HELLO: self._hello,
                Kind.READY: self._ready,
                Kind.LACKING: self._lacking,
                Kind.BYE: self._bye,
                Kind.ERROR: self._error,
            }.get(header.kind)
            if act is None:
                raise MessageError(f"a {header.kind.name} message from a worker")
            state = act(peer, header, Body(header, peer.inbox))
        self._traffic.control += received
        return state

    def _reply(self, peer: Peer, header: Header, received: int) -> Reply:
        if received != self.reply_bytes:
            raise MessageError(f"a reply of {received} bytes where {self.reply_bytes} were expected")
        if not peer.replied < header.step <= peer.newest:
            raise MessageError(f"a reply to step {header.step}, which was answered before, or not asked for")
        peer.replied = header.step
        self._traffic.received(peer.worker, received - HEADER_BYTES, HEADER_BYTES)
        peer.received_bytes += received
        peer.reply_in_use = header.step == peer.newest and peer.awaited
        return Reply(
            peer.worker,
            header.step,
            header.loss,
            peer.inbox[:received],
            slept=header.slept,
            computed=header.computed,
            held=header.held,
            encoded=header.encoded,
            clipped=header.clipped,
        )

    def _state(self, peer: Peer, header: Header, received: int) -> WorkerState:
        first, last = header.offset, header.offset + header.body_bytes
        if not 0 <= first < last <= self.state_bytes:
            raise MessageError(f"bytes {first} to {last} of a state of {self.state_bytes}")
        return WorkerState(peer.worker, header.step, peer.inbox[HEADER_BYTES:received], header.offset)

    def _hello(self, peer: Peer, header: Header, body: Body) -> None:
        peer.host, peer.pid, born = body.get("host", str), body.get("pid", int), body.get("born", int)
        peer.born = born if peer.host == platform.node() and birth(peer.pid) == born else 0

    def _ready(self, peer: Peer, header: Header, body: Body) -> Joined:
        version, board = body.get("version", int), body.numbers("board", 4)
        if header.worker != peer.worker:
            self._take_place(peer, header.worker)
        peer.ready = True
        peer.lane.held = version
        if self._shared_memory:
            self._lanes.reads(peer.lane, peer.host)
            peer.lane.board = None if board is None else Address(*board)
        others = HEADER_BYTES + max(min(self.state_bytes, PART_BYTES), self.evaluated_bytes)
        peer.inbox = aligned_buffer(max(self.reply_bytes, others, CONTROL_BYTES))
        return Joined(peer.worker, peer.name)

    def _lacking(self, peer: Peer, header: Header, body: Body) -> None:
        version, wrong, reads = body.get("version", int), body.get("wrong", bool), body.get("reads", bool)
        if wrong:
            self._traffic.resent[peer.worker] += 1
            self._say(f"{peer.name}, step {header.step}: its copy of the model is not the master's; it is sent a new one")
        if not reads:
            self._say(f"{peer.name} can't read the memory of others on its host; it is sent all itself")
            self._lanes.reads(peer.lane, "")
        self._lanes.again(peer.lane, version)

    def _bye(self, peer: Peer, header: Header, body: Body) -> None:
        sent, foreign = body.get("uplink_bytes", int), body.get("foreign", int)
        peer.reported_bytes = sent
        if foreign:
            self._traffic.foreign += foreign
            self._say(f"{peer.name} dropped {foreign} messages that were not of this run, or damaged")
        peer.gone = True

    def _error(self, peer: Peer, header: Header, body: Body) -> None:
        message, traceback, code = body.get("message", str), body.get("traceback", str), body.get("exit_code", int)
        peer.host = body.get("host", str)
        where = peer.name if header.step < 0 else f"{peer.name}, step {header.step}"
        raise WorkerError(
            f"{where}: {message}" if traceback else f"{message} [{peer.name}]",
            worker=peer.worker,
            traceback=traceback,
            exit_code=code,
        )

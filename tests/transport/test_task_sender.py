"""Who is sent what: once a host, to the first worker that is idle; itself, to whoever could not read it there."""

from __future__ import annotations

import numpy as np
import pytest

from gcdl.downlinks import WholeContent
from gcdl.protocol.ledger import Traffic
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.tasks import Task
from gcdl.protocol.wire import HEADER_BYTES, Header, Kind
from gcdl.transport.mpi.shared_memory import Address, Board, Boards, Reference
from gcdl.transport.mpi.task_sender import Lane, Lanes

D, N, RUN = 100, 5, 3


class Sent:
    """A communicator to one worker: keeps what is sent, and has delivered it when it is told so."""

    def __init__(self) -> None:
        self.messages: list[np.ndarray] = []
        self.delivered = True

    def Issend(self, what, dest, tag):
        return self._take(what)

    def Isend(self, what, dest, tag):
        return self._take(what)

    def _take(self, what):
        self.messages.append(what[0].copy())
        return self

    def Test(self):
        return self.delivered


@pytest.fixture
def lanes():
    return Lanes(RUN, TaskFormat(N), Traffic(N), "here")


def lane_to(lanes, worker, host, *, idle=True):
    lane = Lane(Sent(), 0, worker, board=Address(10 + worker, 3, 7, 4 * D), idle=idle)
    lanes.reads(lane, host)
    return lane


def offer(lanes, *to, step=0):
    task = Task(step, np.full(N, -1), None, None, WholeContent(np.full(D, step, dtype=np.float32).view(np.uint8)))
    for lane in to:
        lanes.offer(lane, task)
        lanes.flush(lane)


def contents(lane):
    """What the tasks to a worker carry: the model, or a reference; and under which number it was told to post one."""
    found, post = [], 0
    for message in lane.comm.messages:
        header = Header.read(message, message.size, RUN)
        if header.kind is Kind.POST:
            post = header.step
        elif header.kind is Kind.TASK:
            content = message[TaskFormat(N).overhead_bytes :]
            found.append((Reference.read(content) or content.view(np.float32).tolist(), post))
            post = 0
    return found


def test_a_host_is_sent_a_model_once_and_its_other_workers_where_it_will_be(lanes):
    there = [lane_to(lanes, 0, "a", idle=False), lane_to(lanes, 1, "a"), lane_to(lanes, 2, "a"), lane_to(lanes, 3, "b")]
    offer(lanes, *there, step=5)
    busy, carrier, other, alone = (contents(lane)[0] for lane in there)
    assert busy == ([5.0] * D, 0)  # nobody was told to post it by then, and it may not look for long
    assert carrier[0] == [5.0] * D
    assert carrier[1] > 0
    assert other[0] == Reference(carrier[1], 4 * D, there[1].board)
    assert alone == ([5.0] * D, 0)  # on its host there is nobody to share it with


def test_bytes_are_those_delivered_and_those_that_crossed_no_link(lanes):
    there = [lane_to(lanes, worker, "a") for worker in range(3)]
    offer(lanes, *there)
    overhead = TaskFormat(N).overhead_bytes
    assert lanes._traffic.down[:3].tolist() == [[4 * D, overhead]] * 3
    handed = sum(message.size for lane in there for message in lane.comm.messages) - HEADER_BYTES  # the note to post it
    assert lanes._traffic.downlink - lanes._traffic.shared == handed
    assert lanes._traffic.control == HEADER_BYTES


def test_who_could_not_read_it_is_sent_it_itself_and_the_next_one_by_way_of_the_board_again(lanes):
    carrier, other = lane_to(lanes, 0, "a"), lane_to(lanes, 1, "a")
    offer(lanes, carrier, other)
    assert isinstance(contents(other)[0][0], Reference)
    lanes.again(other, -1)
    lanes.flush(other)
    assert contents(other)[1] == ([0.0] * D, 0)
    offer(lanes, carrier, other, step=1)
    assert isinstance(contents(other)[2][0], Reference)
    lanes.reads(other, "")
    offer(lanes, carrier, other, step=2)
    assert contents(other)[3] == ([2.0] * D, 0)
    assert contents(carrier)[2] == ([2.0] * D, 0)  # it is the only reader left there


def test_on_the_masters_host_all_read_its_board(lanes):
    lanes.board = Board(4 * D)
    there = [lane_to(lanes, worker, "here", idle=worker > 0) for worker in range(2)]
    boards = Boards()
    for step in range(5):
        offer(lanes, *there, step=step)
        for lane in there:
            posted = boards.find(contents(lane)[step][0])
            assert posted.content.view(np.float32).tolist() == [float(step)] * D
            assert posted.intact()
            assert not posted.content.flags.writeable  # a page that a reader wrote would never show a later model
    assert boards.find(contents(there[0])[1][0]) is None  # written over since


def test_a_worker_that_takes_nothing_gets_the_newest_task_and_is_told_once_that_there_is_one(lanes):
    lane = lane_to(lanes, 0, "")
    offer(lanes, lane)
    lane.comm.delivered = False
    for step in range(1, 9):
        offer(lanes, lane, step=step)
    assert [Header.read(message, message.size, RUN).kind for message in lane.comm.messages] == [Kind.TASK, Kind.SUPERSEDED]
    lane.comm.delivered = True
    lanes.flush(lane)
    assert [content[0] for content, _ in contents(lane)] == [0.0, 8.0]

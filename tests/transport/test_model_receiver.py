"""A worker's copy of the model, kept up to date from a board that may be written again while it reads."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from gcdl.downlinks import UNKNOWN
from gcdl.protocol.task_format import TaskFormat
from gcdl.protocol.wire import Header, Kind
from gcdl.transport.mpi.model_receiver import Model
from gcdl.transport.mpi.shared_memory import REFERENCE_BYTES, Board
from gcdl.types import aligned_buffer

FORMAT = TaskFormat(1)


class Replica:
    """Reads as long as it takes the board's owner to write on."""

    version, body_bytes, in_place = 4, 256, False

    def __init__(self, meanwhile) -> None:
        self.meanwhile = meanwhile

    def follow(self, content):
        self.version += 1
        self.meanwhile()
        return content.copy()

    def damage(self):
        raise AssertionError


def test_an_update_that_changed_while_it_was_applied_makes_a_copy_that_is_lacking_and_said():
    board = Board(256)
    message = aligned_buffer(FORMAT.overhead_bytes + REFERENCE_BYTES)
    board.address.refer(1, 256, message[FORMAT.overhead_bytes :])
    header = Header(Kind.TASK, 0, step=5, body_bytes=message.size - 64)
    inbox = SimpleNamespace(poll=lambda: False)
    for later, fits in ((2, True), (4, False)):  # numbers 1 and 4 have the same slot
        board.put(1, np.zeros(256, dtype=np.uint8))
        model = Model(Replica(lambda later=later: board.put(later, np.ones(256, dtype=np.uint8))), FORMAT)
        task = model.take_in(header, message, inbox)
        assert (task is not None) == fits
        assert fits or model.complaint == {"version": UNKNOWN, "wrong": True, "reads": True}


class Hashed:
    """Its content is a number: of the version that it leads to; 0: what it brings is wrong; 1: it leads on from another."""

    version, body_bytes, in_place, wrong = 4, 128, False, False

    def damage(self):
        raise AssertionError

    def follow(self, content):
        self.wrong = content[0] == 0
        if content[0] < 2:
            self.version = UNKNOWN if self.wrong else self.version
            return None
        self.version = int(content[0])
        return content.copy()


def test_a_second_wrong_model_in_a_row_is_told_too_but_what_was_on_its_way_is_not():
    model = Model(Hashed(), FORMAT)
    inbox = SimpleNamespace(poll=lambda: False)

    def take_in(number):
        message = aligned_buffer(FORMAT.overhead_bytes + 128)
        message[FORMAT.overhead_bytes :] = number
        return model.take_in(Header(Kind.TASK, 0, step=5, body_bytes=message.size - 64), message, inbox)

    told = []
    for number in (0, 1, 1, 0, 1, 7, 1):
        assert (take_in(number) is not None) == (number > 1)
        told.append(None if model.complaint is None or number > 1 else model.complaint["wrong"])
    assert told == [True, None, None, True, None, None, False]

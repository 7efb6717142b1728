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

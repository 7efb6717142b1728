"""A worker loads a row beside its work; what can't be loaded ends the run with exit code 3."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from gcdl.errors import DataError, TooManyLost
from gcdl.protocol.coding import CodeRow, read_row, with_row
from gcdl.protocol.wire import Header, Kind

pytest.importorskip("mpi4py")
from gcdl.transport.mpi.row_loader import RowLoader


class Slow:
    def __init__(self):
        self.go_on = threading.Event()
        self.loaded = []

    def load_row(self, row):
        self.go_on.wait(10.0)
        if -1 in row.shards:
            raise DataError("train-images: cannot be read")
        self.loaded.append((threading.current_thread() is threading.main_thread(), row.shards.tolist()))
        return lambda: row


def looked(loader):
    end = time.monotonic() + 10.0
    while (row := loader.look()) is None:
        assert time.monotonic() < end
        time.sleep(0.001)
    return row


def row(*shards):
    return CodeRow(np.array(shards), np.ones(len(shards)))


def test_rows_come_in_order_and_nobody_waits_for_them():
    worker = Slow()
    loader = RowLoader(worker)
    loader.begin(1, row(0, 3), fresh=True)
    loader.begin(2, row(4), fresh=False)
    assert loader.look() is None
    worker.go_on.set()
    assert [(found.number, found.fresh) for found in (looked(loader), looked(loader))] == [(1, True), (2, False)]
    assert worker.loaded == [(False, [0, 3]), (False, [4])]
    assert loader.look() is None


def test_what_can_not_be_loaded_is_said_with_the_shards():
    worker = Slow()
    worker.go_on.set()
    loader = RowLoader(worker)
    loader.begin(1, row(-1, 3), fresh=True)
    with pytest.raises(TooManyLost, match=r"can't be loaded \(-1, 3\): train-images: cannot be read") as caught:
        looked(loader)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("fresh", [True, False])
def test_a_row_is_read_as_it_was_written(fresh):
    sent = CodeRow(np.array([0, 5, 70_000]), np.array([0.1, -2.0, 1e-300]))
    message = with_row(77, 3, 9, sent, fresh=fresh)
    header = Header.read(message, message.size, 77)
    assert (header.kind, header.worker, header.step) == (Kind.RECODE, 3, 9)
    found, told = read_row(header, message)
    assert found.shards.tolist() == sent.shards.tolist()
    assert found.weights.tobytes() == sent.weights.tobytes()
    assert told is fresh

"""One test of all receives tells every message, and every sender that is gone, also where MPI says only that some failed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mpi4py")

from gcdl.transport.mpi import receives as receives_module
from gcdl.transport.mpi.receives import Receives

GONE = 75


class Posted:
    """A request: true while it is under way."""

    def __init__(self) -> None:
        self.under_way = True

    def __bool__(self) -> bool:
        return self.under_way


class Status:
    source, error, nbytes = -1, 0, 0

    def Get_source(self):
        return self.source

    def Get_error(self):
        return self.error

    def Get_count(self, kind):
        return self.nbytes


class Error(Exception):
    pass


class Comm:
    def Irecv(self, what, source, tag):
        return Posted()


def receives(count):
    all_of_them = Receives()
    for place in range(count):
        assert all_of_them.add() == place
        all_of_them.post(place, Comm(), 10 + place, 7, np.zeros(8, dtype=np.uint8))
    return all_of_them


@pytest.fixture
def mpi(monkeypatch):
    """MPI whose tests find these events, in turn: (places complete, places failed)."""
    events: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def testsome(requests, statuses):
        complete, failed = events.pop(0)
        for place, status in zip(sorted([*complete, *failed]), statuses, strict=False):
            requests[place].under_way = False
            status.source, status.error, status.nbytes = 10 + place, GONE if place in failed else 0, 100 + place
        if failed:
            raise Error
        return list(complete)

    fake = SimpleNamespace(
        Request=SimpleNamespace(Testsome=testsome), Status=Status, Exception=Error, REQUEST_NULL=None, BYTE=1, SUCCESS=0
    )
    monkeypatch.setattr(receives_module, "MPI", fake)
    return events


@pytest.mark.parametrize(
    ("complete", "failed"), [((), (2,)), ((0,), (3,)), ((3,), (0,)), ((0, 2, 4), (1, 3)), ((), (0, 1, 2, 3, 4))]
)
def test_a_test_that_raises_tells_both_what_came_and_who_is_gone(mpi, complete, failed):
    posted = receives(5)
    mpi += [(complete, failed), ((), ())]
    tested = posted.test()
    assert sorted(tested.received) == [(place, 100 + place) for place in complete]
    assert [(place, error.args) for place, error in tested.failed] == [(place, (GONE,)) for place in failed]
    again = posted.test()
    assert (again.received, again.failed) == ([], [])

"""What a job of MPI ranks decides without MPI: who is a master, and what is too large."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("mpi4py")

from gcdl.errors import UsageError
from gcdl.transport.mpi.job import MOST_BYTES, check_size, masters_first


@pytest.mark.parametrize("masters", [1, 2, 3, 4, 6])
def test_masters_lie_on_as_many_hosts_as_there_are_and_rank_0_is_one(masters):
    for hosts in itertools.product(range(3), repeat=6):
        order = masters_first(hosts, masters)
        assert sorted(order) == list(range(6))
        assert order[0] == 0
        chosen = order[:masters]
        assert len({hosts[rank] for rank in chosen}) == min(masters, len(set(hosts)))
        assert order[masters:] == sorted(order[masters:])


def test_on_one_host_nobody_is_renumbered():
    assert masters_first([5] * 9, 4) == list(range(9))


def test_a_message_too_large_for_mpi_is_refused_with_its_size():
    check_size(MOST_BYTES, "a reply")
    with pytest.raises(UsageError, match=r"a reply would be a message of 2,147,483,648 bytes; .*run\.masters"):
        check_size(MOST_BYTES + 1, "a reply")

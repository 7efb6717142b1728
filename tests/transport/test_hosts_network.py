"""Links of workers that share hosts: what stays on a host crosses no link."""

import numpy as np
import pytest

from gcdl.transport.simulated.hosts import HostsNetwork
from gcdl.transport.simulated.network import Network, Sizes

EVERYONE = np.arange(4)
LINK = {"latency": 0.1, "bandwidth": 10.0, "master_bandwidth": 10.0}


def network(*hosts, **more):
    return HostsNetwork(**LINK, hosts=np.array(hosts), **more)


def test_workers_on_hosts_of_their_own_have_plain_links():
    plain, own = Network(**LINK), network(1, 2, 3, 4)
    sizes = np.full(4, 20)
    assert own.occupation(sizes, EVERYONE) == pytest.approx(plain.occupation(sizes, EVERYONE))
    assert own.transfer(sizes, sizes, EVERYONE) == pytest.approx(plain.transfer(sizes, sizes, EVERYONE))
    for of_own, of_plain in zip(
        own.arrivals(np.zeros(4), Sizes(20, 20), 0.0, EVERYONE),
        plain.arrivals(np.zeros(4), Sizes(20, 20), 0.0, EVERYONE),
        strict=True,
    ):
        assert of_own == pytest.approx(of_plain)


def test_a_task_crosses_the_link_once_for_a_host_and_never_for_the_masters():
    sizes = np.full(4, 20)
    assert network(0, 0, 1, 1).occupation(sizes, EVERYONE).tolist() == [0.0, 0.0, 2.0, 0.0]
    assert network(1, 0, 0, 1).occupation(sizes, np.array([3, 2, 1, 0])).tolist() == [2.0, 0.0, 0.0, 0.0]


def test_a_reply_on_the_masters_host_overtakes_those_on_the_link():
    received, ends = network(1, 1, 0, 0, memory_bandwidth=40.0).arrivals(np.zeros(4), Sizes(20, 20), 0.0, EVERYONE)
    assert received == pytest.approx([2.1, 4.1, 0.5, 1.0])
    assert ends[:2] == pytest.approx([2.1, 4.1])
    assert np.isneginf(ends[2:]).all()

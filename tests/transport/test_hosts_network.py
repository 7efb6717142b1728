"""Links of workers that share hosts: what stays on a host crosses no link."""

import numpy as np
import pytest

from gcdl.transport.simulated.hosts import HostsNetwork
from gcdl.transport.simulated.network import Network, Sizes

EVERYONE = np.arange(4)
LINK = {"latency": 0.1, "bandwidth": 10.0, "master_bandwidth": 10.0}


def network(*hosts, **more):
    return HostsNetwork(**LINK, hosts=np.array(hosts), **more)


def test_workers_on_hosts_of_their_own_have_a_link_that_all_share():
    """The last task, and the last reply, come when they come over a link that serves one after the other."""
    plain, own = Network(**LINK), network(1, 2, 3, 4)
    sizes = np.full(4, 20)
    assert own.occupation(sizes, EVERYONE) == pytest.approx(plain.occupation(sizes, EVERYONE))
    before = np.arange(4) * 2.0
    assert before + own.transfer(sizes, sizes, EVERYONE) == pytest.approx(np.full(4, 8.1))
    sent = np.array([0.0, 0.5, 0.5, 9.0])
    shared, one_by_one = (link.arrivals(sent, Sizes(20, 20), 0.0, EVERYONE)[0] for link in (own, plain))
    assert shared == pytest.approx([0.6 + 1.5 * 3, 6.1, 6.1, 11.1])
    assert one_by_one == pytest.approx([2.1, 4.1, 6.1, 11.1])


def test_a_task_crosses_the_link_once_for_a_host_and_never_for_the_masters():
    sizes = np.full(4, 20)
    assert network(0, 0, 1, 1).occupation(sizes, EVERYONE).tolist() == [0.0, 0.0, 2.0, 0.0]
    assert network(1, 0, 0, 1).occupation(sizes, np.array([3, 2, 1, 0])).tolist() == [2.0, 0.0, 0.0, 0.0]


def test_a_reply_on_the_masters_host_overtakes_those_on_the_link():
    received, ends = network(1, 1, 0, 0, memory_bandwidth=40.0).arrivals(np.zeros(4), Sizes(20, 20), 0.0, EVERYONE)
    assert received == pytest.approx([4.1, 4.1, 0.5, 1.0])
    assert ends[:2] == pytest.approx([4.1, 4.1])
    assert np.isneginf(ends[2:]).all()

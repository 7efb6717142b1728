"""The hosts that other tests and the benchmarks run on: what they promise, and that nothing is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import hosts as lab
import pytest
from hosts import Hosts

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.skipif(lab.why_not() is not None, reason=f"no hosts: {lab.why_not()}"),
]

SEND = """
import socket, sys, time
server = socket.create_server(("10.77.0.1", 5000))
print("listening", flush=True)
end, _ = server.accept()
began, total = time.monotonic(), 0
while data := end.recv(1 << 16):
    total += len(data)
print(8e-6 * total / (time.monotonic() - began), flush=True)
"""
RECEIVE = """
import socket
end = socket.create_connection(("10.77.0.1", 5000), 10)
end.sendall(bytes(2_500_000))
end.close()
"""


def spaces(pid: int) -> set[str]:
    """The network namespaces of one process: others may have theirs."""
    return {name for name in os.listdir("/run/netns") if name.startswith(f"g{pid}-")}


def python(hosts: Hosts, host: str, code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*hosts.on(host), sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("delay", [None, 5.0])
def test_hosts_have_names_links_of_a_rate_and_a_delay_and_leave_nothing(delay):
    before = spaces(os.getpid())
    with Hosts(2, rate_mbit=100, delay_ms=delay) as hosts:
        name = subprocess.run([*hosts.on("host2"), "hostname"], capture_output=True, text=True, check=True).stdout
        assert name == "host2\n"
        with python(hosts, "host1", SEND) as server:
            assert server.stdout.readline() == "listening\n"
            assert python(hosts, "host2", RECEIVE).communicate(timeout=30)[0] == ""
            rate = float(server.stdout.readline())
        assert 60.0 < rate < 115.0  # a burst and the sender's buffer go before the clock
        assert 2_500_000 < hosts.traffic()["host1"].received < 3_000_000
        if delay is not None:
            # A connection is there after a round trip.
            code = "import socket, time; t = time.monotonic(); s = socket.socket(); s.connect_ex(('10.77.0.1', 9)); "
            code += "print(time.monotonic() - t)"
            for _ in range(2):  # the first one asks for the address too
                seconds = float(python(hosts, "host2", code).communicate()[0])
            assert 0.0095 < seconds < 0.1
        assert len(spaces(os.getpid())) == 3
        left = subprocess.Popen([*hosts.on("host1"), "sleep", "100"])
        time.sleep(0.1)
    assert left.wait(5) == -signal.SIGKILL
    assert spaces(os.getpid()) == before


def test_hosts_do_not_outlive_who_made_them():
    code = "from hosts import Hosts\nimport time\nwith Hosts(2) as h:\n    print(*h.names, flush=True)\n    time.sleep(100)"
    path = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(lab.__file__).parent), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", code], env=path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "host1 host2\n"
        assert len(spaces(process.pid)) == 3
        process.kill()
    end = time.monotonic() + 10.0
    while spaces(process.pid):
        assert time.monotonic() < end
        time.sleep(0.05)

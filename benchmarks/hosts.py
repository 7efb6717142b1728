"""Several hosts on one machine: network namespaces with their own addresses and host names, joined by links of a given rate.

    with Hosts(3, rate_mbit=100) as hosts:
        subprocess.run([*hosts.mpirun(9), sys.executable, "-m", "gcdl", "train", ...], env=hosts.environment())
        hosts.traffic()

mpirun runs on host1 with the master; every other host has a daemon of its own, which mpirun starts through an agent in place
of ssh. Without a delay a bridge joins the hosts, and the kernel (TBF) limits both ends of every link; with one, switch.py does.
Whatever happens to the process that made them, SIGKILL too, its hosts and all processes on them are removed: a keeper outside
waits for it to end. Needs root and the commands ip and tc; ``why_not()`` says what is missing.

    python benchmarks/hosts.py [--hosts 3] [--rate 100] [--delay 5] [--slots 1,4,4] -n RANKS COMMAND...
    python benchmarks/hosts.py -n 9 python -m gcdl train configs/quickstart.toml

runs a command on all of them (RANKS 0: once, on host1, without MPI), and prints what crossed the links.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from gcdl.launch.mpirun import mpirun

_KEEPER = """
cat >/dev/null   # until whoever made the hosts closes this pipe, or is gone
for round in 1 2 3; do
    for name in "$@"; do ip netns pids "$name" 2>/dev/null | xargs -r kill -9 2>/dev/null; done
    sleep 0.05
done
for name in "$@"; do ip netns del "$name" 2>/dev/null; done
rm -rf -- "$0"
"""
_ENTER = """#!/bin/sh
# enter HOST COMMAND...: run a command on a host, with a shared memory space of its own that goes with it
host=$1; shift
exec ip netns exec {prefix}"$host" unshare --uts --mount /bin/sh -c 'mount -t tmpfs tmpfs /dev/shm; hostname "$0"; exec "$@"' \\
    "$host" "$@"
"""
_AGENT = """#!/bin/sh
# agent HOST WORDS...: as ssh, which hands the words to a shell
host=$1; shift
exec {folder}/enter "$host" /bin/sh -c "$*"
"""


class Traffic(NamedTuple):
    """Bytes over a host's link, headers of all layers included."""

    received: int
    sent: int


def why_not() -> str | None:
    """Say why this machine can't have such hosts; None: it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for command in ("ip", "tc", "unshare", "hostname"):
        if shutil.which(command) is None:
            return f"the command {command} is missing (apt-get install iproute2 util-linux hostname)"
    probe = f"g{os.getpid()}-probe"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
        return "this machine does not allow network namespaces"
    subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    return None


class Hosts:
    """``count`` hosts, host1, host2, ..., at 10.77.0.1, 10.77.0.2, ...; up from the with statement on.

    Parameters
    ----------
    count : how many.
    rate_mbit : Mbit/s of each host's link, each way; None: as fast as the machine is.
    delay_ms : milliseconds that a frame takes from host to host, one way; None: none.
    slots : ranks that each host takes, in order; as even as can be when left out.
    """

    def __init__(
        self,
        count: int = 3,
        *,
        rate_mbit: float | None = None,
        delay_ms: float | None = None,
        slots: Sequence[int] | None = None,
    ) -> None:
        self.names = [f"host{i + 1}" for i in range(count)]
        self._prefix = f"g{os.getpid()}-{time.monotonic_ns() % 1_000_000}-"
        self._rate, self._delay, self._slots = rate_mbit, delay_ms, slots
        self._children: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="gcdl-hosts-"))
        for name, text in (("enter", _ENTER), ("agent", _AGENT)):
            (self._folder / name).write_text(text.format(prefix=self._prefix, folder=self._folder))
            (self._folder / name).chmod(0o755)
        spaces = [self._prefix + name for name in (*self.names, "switch")]
        self._keeper = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, str(self._folder), *spaces], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            self._up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hosts and end all processes on them."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait(30.0)
        for child in self._children:
            child.wait(10.0)

    def _up(self) -> None:
        switch = self._prefix + "switch"
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "set", "lo", "up")
        for name in self.names:
            _ip("netns", "add", self._prefix + name)
            _ip("-n", self._prefix + name, "link", "set", "lo", "up")
        if self._delay is None:
            _ip("-n", switch, "link", "add", "br0", "type", "bridge")
            _ip("-n", switch, "link", "set", "br0", "up")
            for i, name in enumerate(self.names):
                there = ("peer", "name", "eth0", "netns", self._prefix + name)
                _ip("link", "add", f"v{i}", "netns", switch, "type", "veth", *there)
                _ip("-n", switch, "link", "set", f"v{i}", "master", "br0", "up")
        else:
            # Jumbo frames: a switch in Python passes some 10,000 frames a second.
            command = [
                "ip", "netns", "exec", switch, sys.executable, str(Path(__file__).with_name("switch.py")),
                "--delay", str(self._delay), *(() if self._rate is None else ("--rate", str(self._rate))),
                *(self._prefix + name for name in self.names),
            ]  # fmt: skip
            self._children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True))
            output = self._children[-1].stdout
            assert output is not None
            with output:
                if output.readline() != "ready\n":
                    raise RuntimeError("the switch did not start")
            for name in self.names:
                _ip("-n", self._prefix + name, "link", "set", "eth0", "mtu", "9000")
        for i, name in enumerate(self.names):
            _ip("-n", self._prefix + name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", "eth0")
            _ip("-n", self._prefix + name, "link", "set", "eth0", "up")
        if self._delay is None and self._rate is not None:
            self.shape(self._rate)

    def shape(self, rate_mbit: float) -> None:
        """Limit every link, both ways, to this rate. Not with a delay: the switch has its own rate."""
        if self._delay is not None:
            raise ValueError("hosts with a delay are given their rate when they are made")
        shaper = ("root", "tbf", "rate", f"{rate_mbit}mbit", "burst", "64kb", "latency", "50ms")
        for i, name in enumerate(self.names):
            for where, device in ((self._prefix + name, "eth0"), (self._prefix + "switch", f"v{i}")):
                _run("tc", "-n", where, "qdisc", "replace", "dev", device, *shaper)

    def cut(self, host: str) -> None:
        """Pull a host's cable."""
        self._cable(host, "down")

    def mend(self, host: str) -> None:
        """Plug it in again."""
        self._cable(host, "up")

    def _cable(self, host: str, state: str) -> None:
        if self._delay is None:  # at the switch's end: the host's addresses and routes stay, as with a real cable
            _ip("-n", self._prefix + "switch", "link", "set", f"v{self.names.index(host)}", state)
        else:
            _ip("-n", self._prefix + host, "link", "set", "eth0", state)

    def on(self, host: str) -> list[str]:
        """Return what goes before a command that is to run on this host."""
        return [str(self._folder / "enter"), host]

    def hostfile(self, ranks: int) -> Path:
        """Write and return a hostfile for so many ranks."""
        count = len(self.names)
        slots = self._slots or [ranks // count + (i < ranks % count) for i in range(count)]
        path = self._folder / f"hostfile-{ranks}"
        path.write_text("".join(f"{name} slots={n}\n" for name, n in zip(self.names, slots, strict=True) if n))
        return path

    def options(self, ranks: int) -> list[str]:
        """Return Open MPI's options that spread so many ranks over the hosts, the first ones on host1."""
        reach = ["--prtemca", "plm_ssh_agent", str(self._folder / "agent"), "--prtemca", "plm_ssh_no_tree_spawn", "1"]
        return [*reach, "--hostfile", str(self.hostfile(ranks)), "-x", "PYTHONPATH", "-x", "OMP_NUM_THREADS"]

    def mpirun(self, ranks: int) -> list[str]:
        """Return the command that starts so many ranks over the hosts, to be followed by a program, by absolute path."""
        program, *options = mpirun(ranks)
        return [*self.on(self.names[0]), program, *self.options(ranks), *options]

    def environment(self, **more: str) -> Mapping[str, str]:
        """Return the environment for :meth:`mpirun`: root may, and the ranks run the gcdl that stands beside this file."""
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        here = {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "OMP_NUM_THREADS": "1"}
        return {**os.environ, **root, **here, **more}

    def ssh(self) -> dict[str, str]:
        """Return the variables by which an mpirun of one's own reaches the hosts; see also :meth:`hostfile`."""
        return {"PRTE_MCA_plm_ssh_agent": str(self._folder / "agent"), "PRTE_MCA_plm_ssh_no_tree_spawn": "1"}

    def pids(self, host: str) -> list[int]:
        """Return the ids of all processes on a host."""
        return [int(word) for word in _run("ip", "netns", "pids", self._prefix + host).split()]

    def traffic(self) -> dict[str, Traffic]:
        """Return what has crossed each host's link so far."""
        found = {}
        for name in self.names:
            text = _run("ip", "netns", "exec", self._prefix + name, "cat", "/proc/net/dev")
            numbers = next(line for line in text.splitlines() if "eth0:" in line).split(":")[1].split()
            found[name] = Traffic(int(numbers[0]), int(numbers[8]))
        return found


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def main() -> int:
    """Run a command on hosts made for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--rate", type=float, help="Mbit/s of each link, each way")
    parser.add_argument("--delay", type=float, help="milliseconds, one way")
    parser.add_argument("--slots", help="ranks that each host takes, e.g. 1,4,4")
    parser.add_argument("-n", "--ranks", type=int, default=0)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if missing := why_not():
        print(f"no hosts: {missing}", file=sys.stderr)
        return 2
    slots = None if given.slots is None else [int(word) for word in given.slots.split(",")]
    with Hosts(given.hosts, rate_mbit=given.rate, delay_ms=given.delay, slots=slots) as hosts:
        before = hosts.mpirun(given.ranks) if given.ranks else hosts.on(hosts.names[0])
        program = shutil.which(given.command[0]) or given.command[0]
        code = subprocess.run([*before, program, *given.command[1:]], env=hosts.environment(), check=False).returncode
        for name, traffic in hosts.traffic().items():
            print(f"{name}: received {traffic.received / 1e6:.2f} MB, sent {traffic.sent / 1e6:.2f} MB")
    return code


if __name__ == "__main__":
    sys.exit(main())

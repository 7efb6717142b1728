"""A switch in user space, for kernels without netem: joins network namespaces, and delays and paces what passes.

Each namespace gets a TAP device, eth0. A frame takes the sender's line, the delay, and the receiver's line, one after the
other; what would wait for a line longer than its queue holds is dropped, as a switch does. Started by hosts.py:

    python benchmarks/switch.py [--delay 5] [--jitter 0] [--loss 0] [--rate 100] [--queue 1000] NAMESPACE...

It says "ready" when the devices are there, and runs until it is killed.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import time
from math import inf
from pathlib import Path

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI, _CLONE_NEWNET = 0x400454CA, 0x0002, 0x1000, 0x40000000
_FRAMES_AT_ONCE = 64


def taps(namespaces: list[str]) -> list[int]:
    """Make a TAP device eth0 in each namespace; return the switch's ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    ends = []
    with Path("/proc/self/ns/net").open() as home:
        for name in namespaces:
            with Path("/run/netns", name).open() as there:
                if libc.setns(there.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {name}")
            end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", b"eth0", _IFF_TAP | _IFF_NO_PI))
            ends.append(end)
        libc.setns(home.fileno(), _CLONE_NEWNET)
    return ends


class Switch:
    """A learning switch over these ends; times in seconds."""

    def __init__(self, ends: list[int], *, delay: float, jitter: float, loss: float, rate: float, queue: float) -> None:
        self._ends = ends
        self._delay, self._jitter, self._loss = delay, jitter, loss
        self._seconds_a_byte = 8.0 / rate
        self._longest = queue * self._seconds_a_byte if rate < inf else inf
        self._sending = dict.fromkeys(ends, 0.0)  # when each line is free again
        self._receiving = dict.fromkeys(ends, 0.0)
        self._known: dict[bytes, int] = {}
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._order = itertools.count()

    def run(self) -> None:
        """Pass frames on, for ever."""
        while True:
            now = time.monotonic()
            while self._waiting and self._waiting[0][0] <= now:
                _, _, end, frame = heapq.heappop(self._waiting)
                try:
                    os.write(end, frame)
                except OSError:
                    continue  # the device is down: a cut cable
            left = max(0.0, self._waiting[0][0] - now) if self._waiting else None
            for end in select.select(self._ends, [], [], left)[0]:
                self._take(end)

    def _take(self, end: int) -> None:
        for _ in range(_FRAMES_AT_ONCE):
            try:
                frame = os.read(end, 65536)
            except OSError:
                return
            self._known[frame[6:12]] = end
            if self._loss and random.random() < self._loss:
                continue
            sent = self._over(self._sending, end, time.monotonic(), len(frame))
            arrived = sent + self._delay + (random.uniform(0.0, self._jitter) if self._jitter else 0.0)
            to = self._known.get(frame[:6])
            for target in [to] if to is not None else self._ends:
                if target != end and sent < inf:
                    due = self._over(self._receiving, target, arrived, len(frame))
                    if due < inf:
                        heapq.heappush(self._waiting, (due, next(self._order), target, frame))

    def _over(self, free: dict[int, float], line: int, now: float, nbytes: int) -> float:
        """Return when a frame that comes to a line now is through it; inf: dropped, the queue is full."""
        if max(0.0, free[line] - now) > self._longest:
            return inf
        free[line] = max(now, free[line]) + nbytes * self._seconds_a_byte
        return free[line]


def main() -> None:
    """Make the devices and pass frames on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delay", type=float, default=0.0, help="milliseconds, one way")
    parser.add_argument("--jitter", type=float, default=0.0, help="milliseconds more, at most; frames may overtake")
    parser.add_argument("--loss", type=float, default=0.0, help="share of frames lost")
    parser.add_argument("--rate", type=float, default=inf, help="Mbit/s of each line, each way")
    parser.add_argument("--queue", type=float, default=1000.0, help="KB that wait for a line before frames are dropped")
    parser.add_argument("namespaces", nargs="+", metavar="NAMESPACE")
    given = parser.parse_args()
    ends = taps(given.namespaces)
    print("ready", flush=True)
    Switch(
        ends,
        delay=given.delay / 1e3,
        jitter=given.jitter / 1e3,
        loss=given.loss,
        rate=given.rate * 1e6,
        queue=given.queue * 1e3,
    ).run()


if __name__ == "__main__":
    main()

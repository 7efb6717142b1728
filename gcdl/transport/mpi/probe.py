"""Measures what lies between the master and other ranks: latency, bandwidth, and how far their clocks are apart.

``gcdl doctor`` measures all ranks; a run, while it starts, one rank of each host, for less long.

Rank 0 asks, one rank after the other; the others answer. Everything has a deadline: a rank that does not answer is reported,
not waited for. A message is one letter (what to do), or the bytes of a bandwidth test, and is answered by as many bytes; the
answer to a ping is the answering rank's wall clock.
"""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import numpy as np
from mpi4py import MPI

from gcdl.errors import MasterGone
from gcdl.host.launcher_environment import shared_memory
from gcdl.host.probe_report import Link, Probed
from gcdl.transport.mpi.backoff import Backoff
from gcdl.transport.mpi.job import Job, library
from gcdl.types import Buffer

_TAG = 8
_LONGEST = 1 << 24
_ENOUGH_SECONDS = (0.02, 0.2)
"""How long a message must have taken to tell the bandwidth: less where there are many ranks."""
_BRIEF_SECONDS = 0.02
"""The same, and how long to ping, where a run measures."""
_MOST_HOSTS = 8
"""That a run measures: they add less than a second to its start."""
_ANSWER_SECONDS = 10.0
_IDLE_SECONDS = 120.0
_SPIN_SECONDS = 2e-3
PING, END = 1, 2  # the length of a message says what it is: a bandwidth test is longer
_CLOCK = 8


def about(job: Job) -> dict[str, Any]:
    """Return what a rank says of itself, JSON-ready."""
    return {
        "rank": job.rank,
        "host": platform.node(),
        "processors": len(os.sched_getaffinity(0)),
        "shared_memory": shared_memory(),
        "survives": job.survives,
        "python": platform.python_version(),
        "gcdl": version("gcdl"),
        "mpi": library()[2],
    }


def probe(job: Job, seconds: float = 1.0) -> Probed:
    """Be rank 0: measure the ping-pong with every rank, ``seconds`` in all at most, then the bandwidth."""
    ranks, links, silent = [about(job)], [], []
    buffer = np.zeros(_LONGEST, dtype=np.uint8)
    share = seconds / job.workers
    for rank in range(1, job.workers + 1):
        try:
            ranks.append(json.loads(_receive(job, buffer, rank, _ANSWER_SECONDS).tobytes()))
        except MasterGone:
            silent.append(rank)
    for rank in (rank for rank in range(1, job.workers + 1) if rank not in silent):
        try:
            links.append(_measure(job, buffer, rank, share, float(np.clip(4.0 / job.workers, *_ENOUGH_SECONDS))))
        except MasterGone:
            silent.append(rank)
        # A rank that is silent now may still wake up; it is told too.
        _send(job, buffer[:END], rank)
    return Probed(ranks, links, silent)


def answer(job: Job) -> None:
    """Be another rank: answer until rank 0 has measured.

    Raises
    ------
    MasterGone : rank 0 does not ask.
    """
    _send(job, np.frombuffer(json.dumps(about(job)).encode(), dtype=np.uint8), 0)
    _answer_questions(job)


def probe_hosts(job: Job) -> list[dict[str, Any]]:
    """Be rank 0 of a run that starts: measure the link to one rank of each host; the others call :func:`answer_host`.

    Returns a table for each link, JSON-ready: ``host``, and ``seconds`` and ``bytes_per_second`` as
    :class:`gcdl.host.probe_report.Link` has them. A rank that does not answer is left out.
    """
    buffer = np.zeros(_LONGEST, dtype=np.uint8)
    first: dict[str, int] = {}
    for rank in range(1, job.workers + 1):
        with suppress(MasterGone):
            first.setdefault(_receive(job, buffer, rank, _ANSWER_SECONDS).tobytes().decode(), rank)
    chosen = dict(list(first.items())[:_MOST_HOSTS])
    for rank in sorted({*range(1, job.workers + 1)} - {*chosen.values()}):  # they go on with loading their data
        _end(job, buffer, rank)
    links = []
    for host, rank in chosen.items():
        with suppress(MasterGone):
            link = _measure(job, buffer, rank, _BRIEF_SECONDS, _BRIEF_SECONDS)
            links.append({"host": host, "seconds": link.seconds, "bytes_per_second": link.bytes_per_second})
        _end(job, buffer, rank)
    return links


def answer_host(job: Job) -> None:
    """Be another rank of a run that starts: say on which host it is, and answer until rank 0 has measured.

    Raises
    ------
    MasterGone : rank 0 does not ask.
    """
    _send(job, np.frombuffer(platform.node().encode(), dtype=np.uint8), 0)
    _answer_questions(job)


def _end(job: Job, buffer: Buffer, rank: int) -> None:
    with suppress(MasterGone):
        _send(job, buffer[:END], rank)


def _answer_questions(job: Job) -> None:
    buffer = np.zeros(_LONGEST, dtype=np.uint8)
    while True:
        asked = _receive(job, buffer, 0, _IDLE_SECONDS)
        if asked.size == END:
            return
        _send(job, np.array([time.time()]).view(np.uint8) if asked.size == PING else asked, 0)


def _measure(job: Job, buffer: Buffer, rank: int, seconds: float, enough: float) -> Link:
    """Measure the link to a rank: ping it for ``seconds``, then send messages until one takes longer than ``enough``."""
    shortest, skew = float("inf"), 0.0
    until = time.monotonic() + seconds
    rounds = 0
    while rounds < 3 or (time.monotonic() < until and rounds < 1000):
        before = time.time()
        began = time.perf_counter()
        _send(job, buffer[:PING], rank)
        clock = float(_receive(job, buffer[:_CLOCK], rank, _ANSWER_SECONDS).view(np.float64)[0])
        took = time.perf_counter() - began
        if took < shortest:
            shortest, skew = took, clock - (before + took / 2.0)
        rounds += 1
    size, before = 1 << 16, 0.0
    while True:
        began = time.perf_counter()
        _send(job, buffer[:size], rank)
        _receive(job, buffer, rank, _ANSWER_SECONDS)
        took = time.perf_counter() - began
        if took > enough or size == _LONGEST:
            return Link(rank, shortest, _rate(size, took, before, shortest), skew)
        size, before = size * 4, took


def _rate(size: int, took: float, before: float, ping: float) -> float:
    """Return bytes a second by the round trip of ``size`` bytes, and the one ``before`` it, of a quarter.

    Their difference has no ping in it, nor what a link lets through at once before it keeps to its rate. Where the shorter
    message took as long, processors were measured, not the link; then the longer one alone tells.
    """
    if 0.0 < before < took / 2.0:
        return 1.5 * size / (took - before)
    return 2.0 * size / max(took - ping, 1e-9)


def _send(job: Job, message: Buffer, rank: int) -> None:
    _complete(job.comm.Isend([message, MPI.BYTE], dest=rank, tag=_TAG), _ANSWER_SECONDS, MPI.Status())


def _receive(job: Job, buffer: Buffer, rank: int, seconds: float) -> Buffer:
    status = MPI.Status()
    _complete(job.comm.Irecv([buffer, MPI.BYTE], source=rank, tag=_TAG), seconds, status)
    return buffer[: status.Get_count(MPI.BYTE)]


def _complete(request: MPI.Request, seconds: float, status: MPI.Status) -> None:
    """Wait: at first without sleeping, which would be measured."""
    began = time.monotonic()
    backoff = Backoff()
    try:
        while not request.Test(status):
            now = time.monotonic()
            if now > began + seconds:
                raise MasterGone(f"no answer within {seconds:g} s")
            if now > began + _SPIN_SECONDS:
                backoff.sleep()
            else:
                time.sleep(0)  # whoever shares the core may answer
    except MPI.Exception as error:
        raise MasterGone(str(error)) from error

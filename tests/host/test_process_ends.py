"""An ended process is noticed, once, whether the system has handles for processes or not; so is one whose id was used again."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from gcdl.host.process_ends import ProcessEnds
from gcdl.host.processes import birth


@pytest.fixture(params=["handles", "no handles"])
def ends(request, monkeypatch):
    if request.param == "no handles":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    return ProcessEnds()


def sleeper():
    process = subprocess.Popen(["sleep", "60"])
    return process, (process.pid, birth(process.pid))


def test_those_that_have_ended_are_told_once(ends):
    (first, one), (second, other) = sleeper(), sleeper()
    ends.watch(one)
    ends.watch(other)
    assert ends.ended() == set()
    first.kill()  # and is not waited for: a zombie has ended too
    until = time.monotonic() + 10.0
    found: set[tuple[int, int]] = set()
    while not found and time.monotonic() < until:
        found = ends.ended()
    assert found == {one}
    assert ends.ended() == set()
    second.kill()
    second.wait()
    first.wait()
    assert ends.ended() == {other}


def test_one_that_had_ended_before_or_whose_id_is_anothers_has_ended(ends):
    process, (pid, born) = sleeper()
    ends.watch((pid, born - 1))
    assert ends.ended() == {(pid, born - 1)}
    process.kill()
    process.wait()
    ends.watch((pid, born))
    assert ends.ended() == {(pid, born)}

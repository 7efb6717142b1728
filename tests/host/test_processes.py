"""A process is known by its id and its birth: it is seen to end, and no other process is taken for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from gcdl.host.processes import birth, send_signal, start_time, stopped, this_process, when_gone, with_argument

WORD = f"60.{os.getpid():07d}1"
"""Of this process alone: other tests run beside."""


@pytest.fixture
def child():
    process = subprocess.Popen(["sleep", WORD])
    yield process
    process.kill()
    process.wait()


def test_a_birth_is_the_same_for_everybody_and_gone_with_the_process(child):
    born = birth(child.pid)
    code = f"from gcdl.host.processes import birth; print(birth({child.pid}))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert born == int(told) > 0
    assert birth(os.getpid()) == this_process()["born"] != born
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert birth(child.pid) == 0  # a zombie has ended
    child.wait()
    assert birth(child.pid) == 0


def test_the_end_of_a_process_is_noticed(child):
    gone = threading.Event()
    when_gone(child.pid, birth(child.pid), gone.set)
    assert not gone.wait(0.7)
    child.kill()
    assert gone.wait(2.0)  # though nobody has waited for it yet


def test_another_process_with_the_same_id_is_not_taken_for_it(child):
    gone = threading.Event()
    when_gone(child.pid, birth(child.pid) + 1, gone.set)  # as of one that had this id before
    when_gone(0, 0, gone.set)  # of another host
    child.kill()
    child.wait()
    assert not gone.wait(1.0)


def test_when_this_process_started_is_known_to_a_hundredth_of_a_second():
    code = "from gcdl.host.processes import start_time; print(start_time())"
    before = time.time()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert -0.02 < float(told) - before < 0.5
    assert start_time() == pytest.approx(start_time(), abs=0.02)


def test_processes_are_found_by_a_word_of_their_command_line(child):
    assert [process.pid for process in with_argument(WORD)] == [child.pid]
    assert with_argument(WORD[:-1]) == []


def test_a_stopped_process_is_known_and_a_signal_to_a_gone_one_is_no_error(child):
    assert not stopped(child.pid)
    send_signal(child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    assert stopped(child.pid)
    child.kill()
    child.wait()
    assert not stopped(child.pid)
    send_signal(child.pid, signal.SIGTERM)

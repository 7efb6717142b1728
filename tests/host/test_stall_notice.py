"""A run that says nothing is said to say nothing, less and less often."""

from __future__ import annotations

import os
import signal
import subprocess

from gcdl.host import stall_notice as silence


def test_silence_is_said_and_a_stopped_master_is_named(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(silence.time, "monotonic", lambda: now[0])
    watch = silence.Silence(60.0)
    assert not watch.news(1)
    now[0] += 60.0
    assert watch.news(None) == "rank 0 has not come up in 60 s"
    assert not watch.news(None)
    now[0] += 60.0
    assert watch.news(os.getpid()) == f"nothing heard from the master (rank 0, pid {os.getpid()}) for 120 s"
    watch.broken()
    now[0] += 60.0
    with subprocess.Popen(["sleep", "60"]) as master:
        os.kill(master.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, master.pid, os.WSTOPPED)
        assert watch.news(master.pid).endswith(f": it is stopped; kill -CONT {master.pid} lets it go on")
        master.kill()

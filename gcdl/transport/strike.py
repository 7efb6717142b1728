"""What an injected fault does to a worker's own process."""

from __future__ import annotations

import math
import os
import signal
import subprocess

from gcdl.stragglers import Fault


def strike(fault: Fault) -> None:
    """Kill this process, or stop it; returns when it has been continued."""
    if fault.fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if math.isfinite(fault.seconds):
        # A stopped process cannot wake itself.
        alarm = ["sh", "-c", f"sleep {fault.seconds}; kill -CONT {os.getpid()}"]
        subprocess.Popen(
            alarm, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
    os.kill(os.getpid(), signal.SIGSTOP)

"""What an injected fault does to a worker's own process."""

from __future__ import annotations

import math
import os
import signal

from gcdl.host.processes import detached
from gcdl.stragglers import Fault


def strike(fault: Fault) -> None:
    """Kill this process, or stop it; returns when it has been continued."""
    if fault.fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if math.isfinite(fault.seconds):
        # A stopped process cannot wake itself.
        detached(f"sleep {fault.seconds}; kill -CONT {os.getpid()}")
    os.kill(os.getpid(), signal.SIGSTOP)

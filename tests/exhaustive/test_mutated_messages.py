"""Messages with bytes, fields or bodies changed, their checksums made to fit: each end drops them, or says so, and goes on.

The two ends of the MPI transport are tried in a real job of two ranks, which plays a short exchange for each message: one rank
is gcdl's, the other says what no gcdl would (message_fuzz.py). Together they hear as many messages as there are run folders.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gcdl.launch.mpirun import environment, mpirun

SCRIPT = Path(__file__).with_name("message_fuzz.py")


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "side", ["readers", pytest.param("master", marks=pytest.mark.mpi), pytest.param("worker", marks=pytest.mark.mpi)]
)
def test_hostile_messages_are_dropped_or_said_and_the_exchange_goes_on(side, pytestconfig):
    count = max(1, pytestconfig.getoption("--fuzz-count") // 10)
    command = [sys.executable, str(SCRIPT), side, str(pytestconfig.getoption("--fuzz-seed")), str(count)]
    done = subprocess.run(
        [*(mpirun(2) if side != "readers" else []), *command], env=environment(), capture_output=True, text=True, timeout=280,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "OK", done.stdout + done.stderr

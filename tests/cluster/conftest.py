"""A real Slurm, for as long as the tests run: munged, slurmctld and three slurmd on this machine, private to them."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import gcdl

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
CONF = """
ClusterName=gcdl
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmdSpoolDir={root}/spool-%n
StateSaveLocation={root}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SwitchType=switch/none
KillWait=10
MessageTimeout=20
TmpFS=/tmp
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=2000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=2000 State=UNKNOWN
NodeName=n3 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]} CPUs=4 RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes=n[1-3] Default=YES MaxTime=10:00:00 State=UP OverSubscribe=NO
"""
"""A requeued job starts again after cred_expire seconds; two minutes in a cluster that does not set it."""


class Slurm:
    """Commands of the cluster, run in a folder."""

    def __init__(self, conf: Path) -> None:
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "OMPI", "PMI"))},
            "SLURM_CONF": str(conf),
            "PYTHONPATH": str(Path(gcdl.__file__).parents[1]),
        }

    def __call__(self, *command: str, folder: Path | None = None, seconds: float = 60.0, **more: str) -> str:
        """Run a command; return what it said."""
        done = subprocess.run(
            command, cwd=folder, env={**self.environment, **more}, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """Return what Slurm knows of a job."""
        words = self("scontrol", "show", "job", number).split()
        return {key: value for key, _, value in (word.partition("=") for word in words)}

    def wait(self, number: str, *states: str, seconds: float = 180.0) -> dict[str, str]:
        """Wait until a job is in one of these states."""
        end = time.monotonic() + seconds
        while (job := self.job(number))["JobState"] not in states:
            assert time.monotonic() < end, f"{number}: {job}\n{self.output(job)}"
            time.sleep(0.2)
        return job

    @staticmethod
    def output(job: dict[str, str]) -> str:
        """Return what a job has written."""
        path = Path(job["StdOut"])
        return path.read_text() if path.exists() else ""


def why_not() -> str | None:
    """Say why there can be no Slurm here."""
    if os.geteuid() != 0:
        return "starting a Slurm needs root"
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    return f"no {', '.join(missing)} (apt-get install slurmctld slurmd slurm-client munge)" if missing else None


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm of three nodes, n1 to n3, of four processors each."""
    if reason := why_not():
        pytest.skip(f"no Slurm: {reason}")
    root = tmp_path_factory.mktemp("slurm")
    (root / "munge").mkdir(mode=0o711)
    (root / "state").mkdir()
    key = root / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    conf = root / "slurm.conf"
    conf.write_text(CONF.format(root=root, host=platform.node(), ports=_free_ports(4)))
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [f"--{name}={root}/munge/{file}" for name, file in files.items()]
    with ExitStack() as stack:
        daemons = [["munged", "--force", "--foreground", *munge], ["slurmctld", "-D", "-f", str(conf)]]
        for command in (*daemons, *(["slurmd", "-D", "-f", str(conf), "-N", f"n{i}"] for i in (1, 2, 3))):
            log = stack.enter_context((root / f"{command[0]}-{command[-1]}.log".replace("/", "_")).open("w"))
            stack.callback(_end, subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
            if command[0] == "munged":
                _until(lambda: (root / "munge" / "socket").exists())
        cluster = Slurm(conf)
        _until(lambda: subprocess.run(["sinfo", "-h", "-t", "idle", "-o", "%D"], env=cluster.environment, capture_output=True,
                                      text=True, check=False).stdout.strip() == "3")  # fmt: skip
        stack.callback(lambda: cluster("scancel", "--user=root", "--full"))
        yield cluster


def _until(ready, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "Slurm does not come up"
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]

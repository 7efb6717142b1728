"""The folder for temporary files: MPI needs one, and Open MPI leaves its own files in it when its launcher is killed.

Open MPI 5 keeps the files of a job in ``ompi.PID``, where PID is its mpirun's, and those of processes that a job starts later
in ``ompi.HOST.UID/jf.0/JOB``, which it leaves behind empty.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

from gcdl.errors import UsageError

_VARIABLES = ("TMPDIR", "TEMP", "TMP")
_CLOCK_SECONDS = 2.0
"""How far a file's time and a process's may be apart, if both happened at once."""


def check_temporary_folder() -> None:
    """Check that there is a folder that MPI can use.

    Raises
    ------
    UsageError : the one that the environment names is missing, or can't be written to.
    """
    for name in _VARIABLES:
        value = os.environ.get(name)
        if value and not _usable(Path(value)):
            raise UsageError(
                f"{name}={value}: no folder that can be written to, and MPI needs one; unset {name}, or name one that is"
            )
    if not any(os.environ.get(name) for name in _VARIABLES) and not _usable(Path("/tmp")):
        raise UsageError("/tmp: can't be written to, and MPI needs a folder for temporary files; name another one in TMPDIR")


def remove_leftovers(ended: int = 0) -> None:
    """Remove what this user's MPI jobs on this host have left behind, if their launcher is gone.

    ``ended``: the process id of a launcher that this process has waited for; 0: none. It may have been killed before its files
    told their host.
    """
    folder = Path(tempfile.gettempdir())
    if ended:
        shutil.rmtree(folder / f"ompi.{ended}", ignore_errors=True)
    living = False
    for path in folder.glob("ompi.[0-9]*"):
        with suppress(OSError, ValueError):
            if path.stat().st_uid != os.getuid() or not _of_this_host(path):
                continue
            if _in_use(path, int(path.name.removeprefix("ompi."))):
                living = True
            else:
                shutil.rmtree(path, ignore_errors=True)
    if not living:
        # The names of these do not tell whose they are: only where no job of ours is left are all of them left over.
        for path in folder.glob(f"ompi.{platform.node()}.{os.getuid()}/jf.0/*"):
            with suppress(OSError):
                path.rmdir()


def _usable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _of_this_host(path: Path) -> bool:
    """Return whether a job's files were made on this host: the folder may be shared with others."""
    return any(path.glob(f"pmix.{platform.node()}.*"))


def _in_use(path: Path, pid: int) -> bool:
    """Return whether a job's launcher is still there. A process that started after its files were written is another one."""
    try:
        return psutil.Process(pid).create_time() < path.stat().st_mtime + _CLOCK_SECONDS
    except psutil.Error:
        return False

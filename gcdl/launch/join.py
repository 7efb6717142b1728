"""Joining an MPI job as one of its ranks, with one clear message from the first rank where that can't work."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gcdl.errors import UsageError
from gcdl.host.installation import no_mpi
from gcdl.host.launcher_environment import Launch, alone

if TYPE_CHECKING:
    from gcdl.transport.mpi.job import Job


def join() -> Job:
    """Start MPI; return the job, which has two ranks or more.

    Raises
    ------
    UsageError : there is no MPI, it does not go with the launcher, or there is one rank only. Only the first rank raises: the
        others end quietly.
    """
    launch = Launch.read()
    try:
        return _join(launch)
    except UsageError:
        if launch.rank > 0:
            # A failure would make mpirun end rank 0 before it has spoken.
            sys.exit(UsageError.exit_code if launch.launcher == "srun" else 0)
        raise


def _join(launch: Launch) -> Job:
    try:
        from gcdl.transport.mpi.job import remove_segments, world
    except (ImportError, RuntimeError) as error:
        raise UsageError(no_mpi(error)) from None
    job = world()
    if job.workers >= 1:
        return job
    remove_segments()
    if launch.size > 1:
        raise UsageError(alone(launch))
    raise UsageError("gcdl train needs a master and a worker at least: mpirun -n 9 gcdl train CONFIG; or use gcdl run")

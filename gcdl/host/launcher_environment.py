"""How this process was launched, read from environment variables alone: no MPI library is needed for it.

Open MPI's ``mpirun``, Hydra (of MPICH and its relatives) and Slurm's ``srun`` tell each rank its place, each in variables of
its own. :func:`conflict` compares that with the MPI library before the library starts: one that does not understand its
launcher either ends every rank with a message of its own, or lets each rank believe that it is alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_ADVICE = "call the mpirun that belongs to this python's MPI (gcdl run does), or see gcdl doctor"
SHARED = Path("/dev/shm")
SEGMENT_BYTES = 16 << 20
"""Shared memory that Open MPI reserves for each rank. Much less is ever written to."""


@dataclass(frozen=True)
class Launch:
    """A rank's place in its job, as the launcher told it.

    Attributes
    ----------
    launcher : "Open MPI 5", "Open MPI 4", "Hydra", "srun", or "" for none.
    rank, size : its number among all ranks of the job, and how many there are.
    local_size : how many of them are on this host; 0: not told.
    local_rank : its number among those.
    pmi : what srun offers an MPI: "pmix", "pmi2", or "".
    """

    launcher: str = ""
    rank: int = 0
    size: int = 1
    local_size: int = 0
    pmi: str = ""
    local_rank: int = 0

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Launch:
        """Return what the environment variables say."""

        def number(name: str, otherwise: int) -> int:
            text = environment.get(name, "")
            return int(text) if text.isdecimal() else otherwise

        if "OMPI_COMM_WORLD_RANK" in environment:
            major = 5 if "PRTE_LAUNCHED" in environment or environment.get("OMPI_VERSION", "").startswith("5") else 4
            size, local = number("OMPI_COMM_WORLD_SIZE", 1), number("OMPI_COMM_WORLD_LOCAL_SIZE", 0)
            rank, local_rank = number("OMPI_COMM_WORLD_RANK", 0), number("OMPI_COMM_WORLD_LOCAL_RANK", 0)
            return cls(f"Open MPI {major}", rank, size, local, local_rank=local_rank)
        # A batch script is one process; its SLURM_NTASKS is what the allocation has room for.
        batch = "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment
        if "SLURM_PROCID" in environment and not batch:
            pmi = "pmix" if "PMIX_RANK" in environment else "pmi2" if "PMI_RANK" in environment else ""
            size = number("SLURM_STEP_NUM_TASKS", number("SLURM_NTASKS", 1))
            local = tasks_on_node(environment.get("SLURM_STEP_TASKS_PER_NODE", ""), number("SLURM_NODEID", 0))
            if size > 1 or pmi:
                return cls("srun", number("SLURM_PROCID", 0), size, local, pmi, number("SLURM_LOCALID", 0))
        if "PMI_RANK" in environment:
            size, local = number("PMI_SIZE", 1), number("MPI_LOCALNRANKS", 0)
            return cls("Hydra", number("PMI_RANK", 0), size, local, local_rank=number("MPI_LOCALRANKID", 0))
        return cls()

    def threads(self, environment: Mapping[str, str] = os.environ) -> int:
        """Return how many compute threads the launcher intends for this rank.

        That is OMP_NUM_THREADS or Slurm's --cpus-per-task; without these, its share of the processors it may run on.
        """
        for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
            text = environment.get(name, "").split(",")[0]
            if text.isdecimal() and int(text) > 0:
                return int(text)
        return max(1, len(os.sched_getaffinity(0)) // max(1, self.local_size))

    def own_cores(self) -> int:
        """Return how many cores this rank has to itself where each other rank of its host uses one; 1 at least."""
        return max(1, len(os.sched_getaffinity(0)) - max(0, self.local_size - 1))


def tasks_on_node(text: str, node: int) -> int:
    """Return how many tasks a Slurm list such as 4(x2),1 gives to a node; 0: the list does not say."""
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            return 0
        counts += [int(match[1])] * int(match[2] or 1)
    return counts[node] if node < len(counts) else 0


def conflict(launch: Launch, vendor: str, major: int) -> str | None:
    """Return why an MPI library of this vendor and version can't work under this launcher, and what to do; None: it can."""
    library = f"{vendor} {major}"
    open_mpi = vendor == "Open MPI"
    if launch.launcher.startswith("Open MPI"):
        if not open_mpi:
            return f"two MPIs: the mpirun is Open MPI's, the library that python loads is {library}; {_ADVICE}"
        if launch.launcher == "Open MPI 5" and major < 5:
            return f"two MPIs: the mpirun is that of Open MPI 5, the library that python loads is {library}; {_ADVICE}"
    elif launch.launcher == "Hydra" and open_mpi:
        return f"two MPIs: the mpirun is MPICH's (or a relative's), the library that python loads is {library}; {_ADVICE}"
    elif launch.launcher == "srun" and launch.size > 1:
        if not launch.pmi:
            offered, way = "it offers no PMI", "srun --mpi=pmi2" if not open_mpi else "srun --mpi=pmix"
        elif open_mpi and launch.pmi == "pmi2" and major >= 5:
            offered, way = "it offers PMI-2, which Open MPI 5 does not speak", "srun --mpi=pmix"
        else:
            return None
        return (
            f"srun started {launch.size} tasks, but each is an MPI job of its own: {offered} ({library} here); use mpirun "
            f"inside the allocation (launch/slurm.sbatch does), or {way}, where this Slurm has it (srun --mpi=list)"
        )
    return None


def alone(launch: Launch) -> str:
    """Return the message for a rank that was started with others, and whose MPI library knows of none."""
    return (
        f"{launch.launcher} started {launch.size} ranks, but to the MPI library of this python each is alone: they are "
        "of two different MPIs, or the library was built without what this launcher speaks; see gcdl doctor"
    )


def shared_memory() -> int:
    """Return the free bytes of shared memory; 0 if there is none, or it can't be written to."""
    try:
        free = os.statvfs(SHARED)
    except OSError:
        return 0
    if not os.access(SHARED, os.W_OK) or free.f_flag & os.ST_RDONLY:
        return 0
    return free.f_bavail * free.f_frsize

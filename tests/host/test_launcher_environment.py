"""How a process was started, from the environments that launchers really make (recorded, and cut to what matters)."""

from __future__ import annotations

import os

import pytest

from gcdl.errors import UsageError
from gcdl.host import launcher_environment as launched
from gcdl.host.cores import choose_core, leave_core, siblings
from gcdl.host.launcher_environment import Launch, conflict, tasks_on_node
from gcdl.launch.mpirun import mpirun, slots_of, with_workers

RANKS = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "9", "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "PMIX_RANK": "3"}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "9", "SLURM_NODEID": "0"}
STEP = {**BATCH, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_PROCID": "4",
        "SLURM_NODEID": "2"}  # fmt: skip
STARTS = [
    ({}, Launch()),
    ({**RANKS, "PRTE_LAUNCHED": "1", "OMPI_VERSION": "5.0.11"}, Launch("Open MPI 5", 3, 9, 4)),
    ({**RANKS, "OMPI_MCA_orte_launch": "1"}, Launch("Open MPI 4", 3, 9, 4)),
    ({"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALNRANKS": "3", "PMI_FD": "6"}, Launch("Hydra", 2, 3, 3)),
    (BATCH, Launch()),  # the batch script itself, whatever its allocation has room for
    (STEP, Launch("srun", 4, 5, 1)),
    ({**STEP, "PMI_RANK": "4", "PMI_SIZE": "5"}, Launch("srun", 4, 5, 1, "pmi2")),
    ({**STEP, "PMIX_RANK": "4"}, Launch("srun", 4, 5, 1, "pmix")),
    # mpirun inside the allocation: its daemons are a step of srun's, the ranks are mpirun's.
    ({**STEP, **RANKS, "PRTE_LAUNCHED": "1"}, Launch("Open MPI 5", 3, 9, 4)),
]


@pytest.mark.parametrize(("environment", "launch"), STARTS)
def test_a_start_is_known_from_the_environment(environment, launch):
    assert Launch.read(environment) == launch


@pytest.mark.parametrize(
    ("launch", "vendor", "major", "says"),
    [
        (Launch(), "Open MPI", 5, None),
        (Launch("Open MPI 5", 0, 9), "Open MPI", 5, None),
        (Launch("Open MPI 4", 0, 9), "Open MPI", 4, None),
        (Launch("Open MPI 4", 0, 9), "Open MPI", 5, None),  # tried: they understand each other
        (Launch("Open MPI 5", 0, 9), "Open MPI", 4, "two MPIs: the mpirun is that of Open MPI 5, the library"),
        (Launch("Open MPI 5", 0, 9), "MPICH", 4, "two MPIs: the mpirun is Open MPI's"),
        (Launch("Hydra", 0, 9), "MPICH", 4, None),
        (Launch("Hydra", 0, 9), "Intel MPI", 2021, None),
        (Launch("Hydra", 0, 9), "Open MPI", 5, "two MPIs: the mpirun is MPICH's"),
        (Launch("srun", 0, 9, 0, "pmi2"), "MPICH", 4, None),
        (Launch("srun", 0, 9, 0, "pmix"), "Open MPI", 5, None),
        (Launch("srun", 0, 9), "MPICH", 4, "srun --mpi=pmi2"),
        (Launch("srun", 0, 9), "Open MPI", 5, "it offers no PMI"),
        (Launch("srun", 0, 9, 0, "pmi2"), "Open MPI", 5, "it offers PMI-2, which Open MPI 5 does not speak"),
    ],
)
def test_what_does_not_go_together_is_named_with_what_to_do(launch, vendor, major, says):
    reason = conflict(launch, vendor, major)
    if says is None:
        assert reason is None
    else:
        assert says in reason
        assert f"{vendor} {major}" in reason
        assert "mpirun" in reason


@pytest.mark.parametrize(
    ("text", "node", "tasks"), [("4(x2),1", 1, 4), ("4(x2),1", 2, 1), ("3", 0, 3), ("", 0, 0), ("3", 1, 0)]
)
def test_slurms_lists_of_tasks_are_read(text, node, tasks):
    assert tasks_on_node(text, node) == tasks


def test_threads_are_what_the_launcher_says_else_a_share_of_the_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    assert Launch("srun", 0, 9, 4).threads({}) == 3
    assert Launch("srun", 0, 9, 4).threads({"SLURM_CPUS_PER_TASK": "2"}) == 2
    assert Launch("srun", 0, 9, 4).threads({"SLURM_CPUS_PER_TASK": "2", "OMP_NUM_THREADS": "5,2"}) == 5
    assert Launch("srun", 0, 99, 48).threads({}) == 1
    assert Launch().threads({}) == 12


def test_the_master_is_left_a_core_where_there_is_one_for_every_rank(monkeypatch):
    allowed = set(range(6))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(allowed))
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: (allowed.clear(), allowed.update(cpus)))
    monkeypatch.setattr("gcdl.host.cores.siblings", lambda processor: {processor, processor ^ 1})  # three cores of two
    assert choose_core(Launch("Open MPI 5", 0, 9, 4)) == []
    assert choose_core(Launch("", 0, 1, 0)) == []
    core = choose_core(Launch("Open MPI 5", 0, 9, 3))
    assert core in ([0, 1], [2, 3], [4, 5])
    leave_core(core)
    assert allowed == set(range(6)) - set(core)
    leave_core(list(range(6)))  # nothing else is left: stay
    assert allowed == set(range(6)) - set(core)


def test_a_processor_is_among_its_siblings():
    processor = min(os.sched_getaffinity(0))
    assert processor in siblings(processor)
    assert siblings(10**6) == {10**6}  # one of which the system says nothing


def test_a_hostfile_says_how_many_ranks_there_is_room_for(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# ours\nhost1 slots=2\n\nhost2 slots=3 max_slots=4\nhost3\n")
    assert slots_of(path) == 6
    for text in ("", "host1 slots=many\n"):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"lines must be HOST, or HOST slots=N"):
            slots_of(path)
    with pytest.raises(UsageError, match="cannot be read"):
        slots_of(tmp_path / "none")


def test_slots_decide_how_many_workers_there_are_where_the_config_does_not(tmp_path, monkeypatch):
    from gcdl.config import parse

    hostfile = tmp_path / "hosts"
    hostfile.write_text("host1 slots=2\nhost2 slots=3\n")
    text = '[problem]\nkind = "linear_regression"\n'
    assert with_workers(parse(text), hostfile).workers == 4
    assert with_workers(parse("workers = 2\n" + text), hostfile).workers == 2
    assert with_workers(parse(text, ["run.spares=1"]), hostfile).workers == 3
    with pytest.raises(UsageError, match="5 slots are too few for a master, a worker and 4 spares"):
        with_workers(parse(text, ["run.spares=4"]), hostfile)
    assert with_workers(parse(text, ["run.spares=1", "run.masters=2"]), hostfile).workers == 2
    with pytest.raises(UsageError, match="5 slots are too few for 4 masters, a worker and 1 spares"):
        with_workers(parse(text, ["run.spares=1", "run.masters=4"]), hostfile)
    monkeypatch.setenv("SLURM_NTASKS", "9")
    assert with_workers(parse(text), None).workers == 8


def test_without_shared_memory_the_ranks_talk_over_tcp(monkeypatch):
    pytest.importorskip("mpi4py")
    if "--mca" not in (usual := mpirun(3)):
        pytest.skip("not Open MPI")
    assert usual[usual.index("btl") + 1] in ("self,sm,tcp", "self,vader,tcp")
    monkeypatch.setattr(launched, "SHARED", launched.Path("/no/such/folder"))
    assert launched.shared_memory() == 0
    without = mpirun(3)
    assert without[without.index("btl") + 1] == "self,tcp"


def test_a_rank_has_the_cores_to_itself_that_no_other_rank_of_its_host_needs(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    assert [Launch("mpirun", 0, 16, local).own_cores() for local in (0, 1, 2, 6, 8, 9)] == [8, 8, 7, 3, 1, 1]

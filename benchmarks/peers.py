"""What a user would pick instead of gcdl, on the same model, data, batches and steps, each as a job of its own, by turns.

* gcdl: 1 bit up, over a gradient code that does not wait for the slowest worker; and without redundancy, for scale, the model
  down, or votes, or signs of its updates.
* torch DistributedDataParallel over gloo: plain, with the fp16 hook, with PowerSGD.
* MPI_Allreduce of float32.
* the reference gradient-coding protocol, rendered from scratch: workers answer every round in order, the master goes on with
  the first n - s (MPI_Waitany), and the job ends in a barrier when the last worker has answered the last round.

Every job meets the same injected delays. Prints the seconds of the whole job (from the launch to the end of the last rank), of
its steps, and until the target loss; and bytes: counted on the hosts' links, or, on shared memory, counted (gcdl) and computed.

    python benchmarks/peers.py                                  # shared memory: no straggler, one persistent, bursts
    python benchmarks/peers.py --rate 100 --stragglers none     # three hosts of network namespaces, 100 Mbit/s links; as root
    python benchmarks/peers.py --stragglers none --contestants "gcdl, s = 1; DDP" --steps 30 --seeds 0
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gcdl.config import Experiment, load, parse
from gcdl.launch.mpirun import mpirun

WORKERS = 4
HOSTS = 3
RANKS = Path(__file__).with_name("peer_ranks.py")
SLOTS = {WORKERS: (2, 1, 1), WORKERS + 1: (3, 1, 1)}  # gcdl's workers lie where the others' ranks do; the master is one more
MODEL = """
workers = 4
[problem]
kind = "classifier"
dataset = "digits"
hidden = {hidden}
batch_size = 32
[optimizer]
lr = 0.1
momentum = 0.9
[run]
checkpoint_every = 0
eval_every = 5
"""
GCDL = ("compressor.kind=stochastic_sign",)
CODED = ("code.kind=fractional_repetition", "code.stragglers=1")
CONTESTANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "gcdl, s = 1": ("gcdl", (*GCDL, *CODED)),
    "gcdl, uncoded": ("gcdl", GCDL),
    "gcdl, uncoded, votes down": ("gcdl", (*GCDL, "downlink.kind=votes")),
    "gcdl, uncoded, sign down": ("gcdl", (*GCDL, "downlink.kind=sign")),
    "DDP": ("ddp", ()),
    "DDP, fp16": ("ddp", ("fp16",)),
    "DDP, PowerSGD rank 1": ("ddp", ("powersgd", "1")),
    "DDP, PowerSGD rank 4": ("ddp", ("powersgd", "4")),
    "MPI Allreduce": ("allreduce", ()),
    "reference protocol": ("reference", CODED),
}
STRAGGLERS = {
    "none": ("stragglers.kind=none",),
    "persistent": ("stragglers.kind=fixed", "stragglers.workers=[1]", "stragglers.seconds={seconds}"),
    "bursts": ("stragglers.kind=bursts", "stragglers.p=0.1", "stragglers.length=5.0", "stragglers.seconds={seconds}"),
}


@dataclass(frozen=True)
class Job:
    """What a job came to. ``megabytes``: sent over all links, or by all ranks on shared memory."""

    wall: float
    steps: float
    to_target: float | None
    loss: float
    megabytes: float


def run(name: str, config: Path, scratch: Path, hosts: Any, target: float) -> Job:
    """Run a contestant's job."""
    kind, options = CONTESTANTS[name]
    if kind in ("gcdl", "reference"):
        checked = parse(config.read_text(), [*options, *(("run.master_timeout=600",) if kind == "gcdl" else ())])
        config = scratch / "coded.toml"
        config.write_text(checked.toml())
    result = scratch / "result.json"
    result.unlink(missing_ok=True)
    before = hosts.traffic() if hosts else {}
    began = time.time()
    if kind == "gcdl":
        folder = scratch / "run"
        start = [*hosts.mpirun(WORKERS + 1)] if hosts else mpirun(WORKERS + 1)
        wait_for([[*start, sys.executable, "-m", "gcdl", "train", str(config), "--out", str(folder)]], hosts)
        wall = time.time() - began
        lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
        seconds = [line["seconds"] for line in lines]
        losses = [[line["step"] + 1, line["test_loss"]] for line in lines if "test_loss" in line]
        megabytes = sum(line["uplink_bytes"] + line["downlink_bytes"] for line in lines) / 1e6
    else:
        role = [sys.executable, str(RANKS), kind, "--config", str(config), "--result", str(result)]
        if kind == "ddp":
            port = free_port()
            names = (
                [name for name, slots in zip(hosts.names, SLOTS[WORKERS], strict=True) for _ in range(slots)] if hosts else []
            )
            address = f"{'10.77.0.1' if hosts else '127.0.0.1'}:{port}"
            role += ["--address", address, "--hook", ",".join(options), "--rank"]
            wait_for([[*(hosts.on(names[i]) if hosts else []), *role, str(i)] for i in range(WORKERS)], hosts)
        else:
            ranks = WORKERS + (kind == "reference")
            wait_for([[*(hosts.mpirun(ranks) if hosts else mpirun(ranks)), *role]], hosts)
        told = json.loads(result.read_text())
        wall, seconds, losses = told["ended"] - began, told["seconds"], told["losses"]
        megabytes = computed(kind, options, config) / 1e6
    if hosts:
        megabytes = sum(now.sent - before[host].sent for host, now in hosts.traffic().items()) / 1e6
    reached = next((step for step, loss in losses if loss <= target), None)
    return Job(wall, sum(seconds), None if reached is None else sum(seconds[:reached]), losses[-1][1], megabytes)


def computed(kind: str, options: tuple[str, ...], config: Path) -> float:
    """Return the bytes that a peer's ranks send: of a ring, of a star; NaN where no formula is simple."""
    loaded = load(config)
    d, n, steps = Experiment.of(loaded, WORKERS).problem.layout().size, WORKERS, loaded.steps
    if kind == "reference":
        return 2.0 * n * 4 * d * steps
    each = {(): 4.0, ("fp16",): 2.0}.get(options, float("nan"))
    return 2.0 * (n - 1) * each * d * steps


def wait_for(commands: list[list[str]], hosts: Any, timeout: float = 400.0) -> None:
    """Run processes until all have ended well; end all if one has not."""
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment = dict(hosts.environment()) if hosts else {**os.environ, **root, "OMP_NUM_THREADS": "1"}
    environment["GLOO_SOCKET_IFNAME"] = "eth0" if hosts else "lo"
    with tempfile.TemporaryFile("w+") as log:
        started = [
            subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL) for command in commands
        ]
        until = time.monotonic() + timeout
        try:
            while any(process.poll() is None for process in started):
                if time.monotonic() > until or any(process.poll() for process in started):
                    break
                time.sleep(0.02)
        finally:
            for process in started:
                if process.poll() is None:
                    process.terminate()
            for process in started:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10.0)
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if any(process.returncode for process in started):
            log.seek(0)
            raise SystemExit(f"{' '.join(commands[0])}\n{log.read()[-3000:]}")


def free_port() -> int:
    """Return a port nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def network(rate: float | None) -> Iterator[Any]:
    """Give three hosts with links of this rate; None on shared memory."""
    if rate is None:
        yield None
        return
    from hosts import Hosts, why_not

    if missing := why_not():
        raise SystemExit(f"--rate: {missing}")

    class Placed(Hosts):
        def hostfile(self, ranks: int) -> Path:
            self._slots = SLOTS[ranks]
            return super().hostfile(ranks)

    with Placed(HOSTS, rate_mbit=rate) as hosts:
        yield hosts


def spread(values: list[float | None]) -> str:
    """Return the median and the range."""
    known = [value for value in values if value is not None and not np.isnan(value)]
    if len(known) < len(values) or not known:
        return "-" if not known else f"{statistics.median(known):.2f} ({len(known)} of {len(values)})"
    return f"{statistics.median(known):.2f} ({min(known):.2f} to {max(known):.2f})"


def show(rows: list[dict[str, Any]], title: str) -> None:
    """Print a table for each kind of stragglers, with ratios to plain DDP and to the same contestant without stragglers."""
    from rich.console import Console
    from rich.table import Table

    def of(stragglers: str, contestant: str, key: str) -> list[Any]:
        return [row[key] for row in rows if (row["stragglers"], row["contestant"]) == (stragglers, contestant)]

    def ratio(one: list[float], other: list[float]) -> str:
        return f"{statistics.median(one) / statistics.median(other):.2f}" if one and other else ""

    for stragglers in dict.fromkeys(row["stragglers"] for row in rows):
        table = Table(title=f"{title}; stragglers: {stragglers}")
        columns = (
            "contestant",
            "job, s",
            "/ DDP's",
            "/ without stragglers",
            "steps, s",
            "/ DDP's",
            "to target, s",
            "MB",
            "last loss",
        )
        for column in columns:
            table.add_column(column)
        for contestant in dict.fromkeys(row["contestant"] for row in rows if row["stragglers"] == stragglers):
            wall, steps = of(stragglers, contestant, "wall"), of(stragglers, contestant, "steps")
            table.add_row(
                contestant, spread(wall), ratio(wall, of(stragglers, "DDP", "wall")),
                ratio(wall, of("none", contestant, "wall")), spread(steps), ratio(steps, of(stragglers, "DDP", "steps")),
                spread(of(stragglers, contestant, "to_target")), spread(of(stragglers, contestant, "megabytes")),
                spread(of(stragglers, contestant, "loss")),
            )  # fmt: skip
        Console(width=170).print(table)


def main() -> None:
    """Run all jobs, print."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that jobs do not outlive this
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contestants", default="", help=f"names, by ; of: {'; '.join(CONTESTANTS)}")
    parser.add_argument("--stragglers", default=",".join(STRAGGLERS), help="of none, persistent, bursts")
    parser.add_argument("--seconds", type=float, default=0.3, help="how late a straggler is")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--hidden", default="[960, 960]", help="widths; d = 994,570 with those")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--target", type=float, default=0.5, help="test loss")
    parser.add_argument("--rate", type=float, help="Mbit/s of each link of three hosts; shared memory when left out")
    parser.add_argument("--out", type=Path, help="a CSV with a row a job; jobs in it are not run again")
    given = parser.parse_args()
    names = [name.strip() for name in given.contestants.split(";") if name.strip()] or list(CONTESTANTS)
    if unknown := [name for name in names if name not in CONTESTANTS]:
        parser.error(f"no contestant {unknown[0]!r}; there are: {'; '.join(CONTESTANTS)}")
    chosen = given.stragglers.split(",")
    if unknown := [name for name in chosen if name not in STRAGGLERS]:
        parser.error(f"--stragglers: no {unknown[0]!r}; there are: {', '.join(STRAGGLERS)}")
    title = f"{given.steps} steps, {WORKERS} workers, " + (f"{given.rate:g} Mbit/s" if given.rate else "shared memory")
    rows = compare(names, chosen, given, title)
    show(rows, title)


def compare(names: list[str], chosen: list[str], given: argparse.Namespace, title: str) -> list[dict[str, Any]]:
    """Run all jobs, by turns; those that ``--out`` has are read."""
    rows: list[dict[str, Any]] = []
    if given.out and given.out.exists():
        with given.out.open() as file:
            for row in csv.DictReader(file):
                numbers = ("wall", "steps", "to_target", "loss", "megabytes")
                rows.append({**row, **{key: float(row[key]) if row[key] else None for key in numbers}})
    done = {(row["title"], row["seed"], row["stragglers"], row["contestant"]) for row in rows}
    with network(given.rate) as hosts:
        for seed in given.seeds.split(","):
            for stragglers in chosen:
                for name in names:
                    if (title, seed, stragglers, name) in done:
                        continue
                    overrides = [word.format(seconds=given.seconds) for word in STRAGGLERS[stragglers]]
                    config = parse(MODEL.format(hidden=given.hidden), [*overrides, f"seed={seed}", f"steps={given.steps}"])
                    with tempfile.TemporaryDirectory() as scratch:
                        path = Path(scratch) / "config.toml"
                        path.write_text(config.toml())
                        job = run(name, path, Path(scratch), hosts, given.target)
                    rows.append({"title": title, "seed": seed, "stragglers": stragglers, "contestant": name, **vars(job)})
                    print(f"{stragglers}, {name}, seed {seed}: {job}", file=sys.stderr, flush=True)
                    if given.out:
                        with given.out.open("a", newline="") as file:
                            writer = csv.DictWriter(file, list(rows[-1]))
                            if file.tell() == 0:
                                writer.writeheader()
                            writer.writerow(rows[-1])
    return [row for row in rows if row["title"] == title]


if __name__ == "__main__":
    main()

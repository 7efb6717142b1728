"""What do several masters buy? Seconds a step, simulated for clusters, and measured between hosts on this machine.

*Simulated*: ``gcdl simulate --timing-only``, sign both ways, 0.05 s of computing, every worker waited for, all links of one
rate; a mean of 20 steps. Beside it a ring all-reduce by arithmetic: 2 (n - 1) / n of the gradient's bytes over a worker's link,
and the same 0.05 s; once without and once with the latency of its 2 (n - 1) messages.

*Measured*: 8 workers and K masters on five hosts (network namespaces), with links of 100 Mbit/s or 1 Gbit/s, started by
``gcdl run --hostfile``. The workers are two on each host but the first; K masters lie on the first K hosts. Linear regression
with one sample a shard, so a step is the exchange. Runs of different K take turns; seconds a step are medians. Beside it gloo's
ring all-reduce of float32 over the places of the workers.

    python benchmarks/masters.py simulated [--parameters 25000000] [--workers 8 32 128 512] [--masters 1 2 4 8 16 32 64]
    python benchmarks/masters.py measured [--parameters 4000000] [--rates 100 1000] [--masters 1 2 4] [--repeats 3]

Simulated: 3 minutes. Measured: 5 minutes on 2 cores; it needs root.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hosts import Hosts, why_not
from rich.console import Console
from rich.table import Table

from gcdl.compressors.kernels import BLOCK
from gcdl.config import parse
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint
from gcdl.training.watcher import Watcher

# --- simulated ----------------------------------------------------------------------------------------------------------

COMPUTE, LATENCY = 0.05, 1e-4
SIMULATED = f"""
steps = 20
[problem]
kind = "linear_regression"
[compressor]
kind = "sign"
[downlink]
kind = "sign"
[run]
seconds_per_shard = {COMPUTE}
[simulate]
latency = {LATENCY}
decode_seconds = {{decode}}
decode_seconds_per_coordinate = 2e-10
"""


def simulated_step(parameters: int, workers: int, masters: int, gigabits: float, decode: float) -> float:
    """Return the seconds of a step, the mean of 20."""
    rate = gigabits * 1.25e8
    overrides = [
        f"workers={workers}", f"run.masters={masters}", f"simulate.parameters={parameters}",
        f"simulate.bandwidth={rate}", f"simulate.master_bandwidth={rate}",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        config = parse(SIMULATED.format(decode=decode), overrides)
        summary = simulate(StartingPoint(config, Path(scratch) / "run", timing_only=True), Watcher())
    return summary.seconds / summary.steps


def ring(parameters: int, workers: int, gigabits: float, bytes_each: int, latency: float = 0.0) -> float:
    """Return the seconds of a step whose gradients are summed up in a ring, by arithmetic."""
    moved = 2 * (workers - 1) / workers * bytes_each * parameters
    return moved / (gigabits * 1.25e8) + 2 * (workers - 1) * latency + COMPUTE


def simulated(parameters: int, workers: Sequence[int], masters: Sequence[int], rates: Sequence[float], decode: float) -> None:
    """Simulate, print."""
    counts = [count for count in masters if count <= -(-parameters // BLOCK)]
    for gigabits in rates:
        table = Table(title=f"{parameters:,} parameters, {gigabits:g} Gbit/s, simulated: seconds a step")
        columns = ["n", *(f"K = {count}" for count in counts), "ring float32", "ring fp16", "ring fp16, latency counted"]
        for column in columns:
            table.add_column(column)
        for n in workers:
            found = [simulated_step(parameters, n, count, gigabits, decode) for count in counts]
            rings = [ring(parameters, n, gigabits, size) for size in (4, 2)] + [ring(parameters, n, gigabits, 2, LATENCY)]
            table.add_row(str(n), *(f"{seconds:.3g}" for seconds in [*found, *rings]))
        Console(width=200).print(table)


# --- measured -----------------------------------------------------------------------------------------------------------

HOSTS, WORKERS = 5, 8
MEASURED = f"""
workers = {WORKERS}
steps = {{steps}}
[problem]
kind = "linear_regression"
features = {{parameters}}
samples = 1
test_samples = 1
[compressor]
kind = "sign"
[wait]
timeout = 600.0
[optimizer]
lr = 1e-9
[run]
eval_every = 0
checkpoint_every = 0
evaluate = "between"
"""


def slots(masters: int) -> list[int]:
    """Return the ranks of each host: two workers on all but host1, and the masters on the first hosts."""
    return [0 if masters == 0 else 1, *(2 + (1 <= i < masters) for i in range(1, HOSTS))]


def measured_step(hosts: Hosts, config: Path, folder: Path, masters: int, downlink: str) -> list[float]:
    """Run a job; return the seconds of its steps but the first three."""
    hostfile = folder.with_suffix(".hosts")
    hostfile.write_text("".join(f"{name} slots={n}\n" for name, n in zip(hosts.names, slots(masters), strict=True)))
    command = [
        *hosts.on("host1"), sys.executable, "-m", "gcdl", "run", str(config), f"run.masters={masters}",
        f"downlink.kind={downlink}", "--hostfile", str(hostfile), "--out", str(folder),
    ]  # fmt: skip
    done = subprocess.run(
        command, env=hosts.environment(**hosts.ssh()), capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return [json.loads(line)["seconds"] for line in (folder / "steps.jsonl").read_text().splitlines()][3:]


def measured_ring(hosts: Hosts, parameters: int, steps: int) -> float:
    """Return the median seconds of gloo's all-reduce of float32 over the places of the workers."""
    places = [name for name, count in zip(hosts.names, slots(0), strict=True) for _ in range(count)]
    command = [sys.executable, __file__, "ring", "--parameters", str(parameters), "--steps", str(steps), "--rank"]
    here = hosts.environment(GLOO_SOCKET_IFNAME="eth0")
    ranks = [
        subprocess.Popen([*hosts.on(place), *command, str(rank)], env=here, stdout=subprocess.PIPE, text=True)
        for rank, place in enumerate(places)
    ]
    try:
        return float(ranks[0].communicate(timeout=300)[0].split()[-1])
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def be_rank_of_ring(parameters: int, steps: int, rank: int) -> None:
    """Be one of the ring's ranks; rank 0 prints the median seconds."""
    import time

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="tcp://10.77.0.2:29511", rank=rank, world_size=WORKERS)
    gradient = torch.zeros(parameters)
    seconds = []
    for _ in range(steps):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(gradient)
        seconds.append(time.perf_counter() - began)
    if rank == 0:
        print(statistics.median(seconds[1:]))
    dist.destroy_process_group()


def measured(
    parameters: int, rates: Sequence[float], masters: Sequence[int], downlinks: Sequence[str], repeats: int, steps: int
) -> None:
    """Run, print."""
    if reason := why_not():
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory() as scratch, Hosts(HOSTS) as hosts:
        config = Path(scratch) / "masters.toml"
        config.write_text(MEASURED.format(parameters=parameters, steps=steps))
        for rate in rates:
            hosts.shape(rate)
            table = Table(title=f"{parameters:,} parameters, {WORKERS} workers, {HOSTS} hosts, {rate:g} Mbit/s: seconds a step")
            for column in ("downlink", *(f"K = {count}" for count in masters), *(f"of {masters[0]}" for _ in masters[1:])):
                table.add_column(column)
            for downlink in downlinks:
                found: dict[int, list[float]] = {count: [] for count in masters}
                for repeat in range(repeats):
                    for count in masters:
                        folder = Path(scratch) / f"{rate}-{downlink}-{repeat}-{count}"
                        found[count].append(statistics.median(measured_step(hosts, config, folder, count, downlink)))
                medians = [statistics.median(found[count]) for count in masters]
                each = [", ".join(f"{one:.3f}" for one in found[count]) for count in masters]
                shown = [f"{median:.3f} ({runs})" for median, runs in zip(medians, each, strict=True)]
                table.add_row(downlink, *shown, *(f"{m / medians[0]:.2f}" for m in medians[1:]))
            Console(width=200).print(table)
            around = measured_ring(hosts, parameters, 4)
            Console().print(f"gloo's ring all-reduce of float32 over the workers' places: {around:.3f} s")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("simulated")
    part.add_argument("--parameters", type=int, default=25_000_000)
    part.add_argument("--workers", type=int, nargs="+", default=[8, 32, 128, 512])
    part.add_argument("--masters", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    part.add_argument("--rates", type=float, nargs="+", default=[1.0, 10.0], help="Gbit/s")
    part.add_argument("--decode", type=float, default=1.3e-4, help="seconds that a reply costs a master, whatever its size")
    part = parts.add_parser("measured")
    part.add_argument("--parameters", type=int, default=4_000_000)
    part.add_argument("--rates", type=float, nargs="+", default=[100.0, 1000.0], help="Mbit/s")
    part.add_argument("--masters", type=int, nargs="+", default=[1, 2, 4])
    part.add_argument("--downlinks", nargs="+", default=["sign", "model"])
    part.add_argument("--repeats", type=int, default=3)
    part.add_argument("--steps", type=int, default=20)
    part = parts.add_parser("ring")
    for key in ("--parameters", "--steps", "--rank"):
        part.add_argument(key, type=int, required=True)
    given = vars(parser.parse_args())
    {"simulated": simulated, "measured": measured, "ring": be_rank_of_ring}[given.pop("part")](**given)


if __name__ == "__main__":
    main()

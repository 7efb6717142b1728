"""What does a step cost the master for each worker? Real ranks of small models on this machine, 4 to 64 of them.

Linear regression, d small, one sample a shard, uncoded, all replies decoded: next to nothing is computed, and all ranks share
this machine's cores, so the processor seconds of the master (its own, from /proc) say what it costs; the seconds of a step say
what that machine makes of n + 1 processes on its cores. Then what one master's link or decoding allows, by simulation.

    python benchmarks/ranks.py [--ranks 5,17,33,65] [--parameters 100] [--steps 300]      # 3 minutes
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from gcdl.launch.mpirun import environment, mpirun

CONFIG = """
steps = {steps}
[problem]
kind = "linear_regression"
features = {parameters}
samples = 1
[compressor]
kind = "sign"
[optimizer]
lr = 1e-6
[run]
eval_every = 0
checkpoint_every = 0
"""
_TICKS = os.sysconf("SC_CLK_TCK")


def master_pid(folder: Path) -> int | None:
    """Return the process id of rank 0 of the run that writes to this folder."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in words and b"OMPI_COMM_WORLD_RANK=0" in variables:
            return int(entry.name)
    return None


def processor_seconds(pid: int) -> float | None:
    """Return what a process has used so far; None: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS


def measure(config: Path, ranks: int, folder: Path) -> tuple[float, float]:
    """Return the median seconds of a step, and the master's processor seconds a step."""
    command = [*mpirun(ranks), sys.executable, "-m", "gcdl", "train", str(config), "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    steps = folder / "steps.jsonl"
    seen: list[tuple[int, float]] = []
    pid = None
    while process.poll() is None:
        time.sleep(0.05)
        if not steps.exists():
            continue
        pid = pid or master_pid(folder)
        used = processor_seconds(pid) if pid else None
        if used is not None:
            seen.append((steps.read_bytes().count(b"\n"), used))
    seconds = [json.loads(line)["seconds"] for line in steps.read_text().splitlines()]
    done = np.array([(count, used) for count, used in seen if 20 < count < len(seconds)], dtype=np.float64)
    slope = float(np.polyfit(done[:, 0], done[:, 1], 1)[0]) if len(done) > 2 else float("nan")
    return statistics.median(seconds[20:]), slope


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", default="5,17,33,65")
    parser.add_argument("--parameters", type=int, default=100)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    table = Table(title=f"{given.parameters:,} parameters, {os.cpu_count()} cores")
    for column in ("workers", "ms a step", "master: ms of a core a step", "microseconds a worker and step"):
        table.add_column(column)
    points = []
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "config.toml"
        config.write_text(CONFIG.format(steps=given.steps, parameters=given.parameters))
        for ranks in (int(word) for word in given.ranks.split(",")):
            step, used = measure(config, ranks, Path(scratch) / str(ranks))
            points.append((ranks - 1, used))
            print(f"{ranks - 1} workers: {1e3 * step:.2f} ms a step, {1e3 * used:.2f} ms of the master", flush=True)
            table.add_row(f"{ranks - 1}", f"{1e3 * step:.2f}", f"{1e3 * used:.2f}", f"{1e6 * used / (ranks - 1):.0f}")
    Console().print(table)
    if len(points) > 1:
        slope, fixed = np.polyfit(*np.array(points).T, 1)
        Console().print(f"the master: {1e6 * fixed:.0f} microseconds a step, and {1e6 * slope:.0f} for each worker")


if __name__ == "__main__":
    main()

"""How large a simulation fits a minute, one core and 2 GiB? With real gradients, and with the clock alone.

taskset -c 0 python benchmarks/simulate.py [--steps-scale 1.0]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

GRADIENTS = """
workers = 1000
steps = {steps}
[problem]
kind = "linear_regression"
features = 1000
samples = 50
[wait]
count = 900
[compressor]
kind = "scaled_sign"
[stragglers]
kind = "exponential"
seconds = 0.1
[simulate]
latency = 1e-4
master_bandwidth = 1.25e9
"""
CLOCK = """
workers = 10000
steps = {steps}
[problem]
kind = "linear_regression"
shards = 1000
[code]
kind = "fractional_repetition"
stragglers = 9
[wait]
count = 9000
[compressor]
kind = "scaled_sign"
[stragglers]
kind = "shifted_exponential"
shift = 0.05
seconds = 0.5
[simulate]
parameters = 300_000_000
latency = 1e-4
bandwidth = 1.25e9
decode_seconds = 1e-6
"""


def measure(text: str, *options: str) -> tuple[float, float, float, dict[str, object]]:
    """Return a simulation's seconds, and those of a core, start-up included; its peak memory in GiB; and its summary."""
    with tempfile.TemporaryDirectory() as scratch:
        config, folder = Path(scratch) / "config.toml", Path(scratch) / "run"
        config.write_text(text)
        command = [sys.executable, "-m", "gcdl", "simulate", str(config), *options, "--out", str(folder)]
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed")
        core = usage.ru_utime + usage.ru_stime
        return time.monotonic() - began, core, usage.ru_maxrss / 2**20, json.loads((folder / "summary.json").read_text())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps-scale", type=float, default=1.0, help="of the number of steps")
    scale = parser.parse_args().steps_scale
    table = Table(title="simulations on one core")
    for column in ("simulation", "steps", "seconds", "of a core", "peak GiB", "virtual seconds"):
        table.add_column(column)
    for name, text, steps, options in (
        ("1,000 workers, linear regression, d = 1,000", GRADIENTS, 200, ()),
        ("10,000 workers, timing only, d = 300,000,000", CLOCK, 1000, ("--timing-only",)),
    ):
        count = max(1, round(steps * scale))
        seconds, core, peak, summary = measure(text.format(steps=count), *options)
        table.add_row(name, str(count), f"{seconds:.1f}", f"{core:.1f}", f"{peak:.2f}", f"{summary['seconds']:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()

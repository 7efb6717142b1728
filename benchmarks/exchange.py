"""Is one bit faster where nothing is slow? Steps over shared memory, one bit against float32, in one run.

Linear regression with a million parameters and one sample a shard: computing takes next to nothing, so a step is the exchange:
the model to every worker, encoding, the replies, decoding, the update. Runs take turns. Shown: the medians of the runs' steps,
and, over all runs of a method, the first decile: the steps that other processes on the machine disturbed least.

    python benchmarks/exchange.py [--parameters 1000000] [--workers 8] [--steps 60] [--repeats 3]     # 4 minutes on 2 cores
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

CONFIG = Path(__file__).with_name("exchange.toml")
METHODS = {
    "identity": ["compressor.kind=identity"],
    "sign": ["compressor.kind=sign"],
    "scaled sign + feedback": ["compressor.kind=scaled_sign", "compressor.error_feedback=true"],
    "stochastic sign": ["compressor.kind=stochastic_sign", "compressor.scale=max", "compressor.dither=independent"],
    "stochastic sign (correlated+subtractive)": ["compressor.kind=stochastic_sign", "compressor.scale=max"],
}


def main() -> None:
    """Run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS), help="beside identity")
    arguments = parser.parse_args()
    if unknown := set(arguments.methods) - set(METHODS):
        parser.error(f"no such method: {', '.join(sorted(unknown))}; there are: {', '.join(METHODS)}")
    methods = {name: overrides for name, overrides in METHODS.items() if name in {"identity", *arguments.methods}}
    seconds: dict[str, list[list[float]]] = {name: [] for name in methods}
    with tempfile.TemporaryDirectory() as scratch:
        size = [f"workers={arguments.workers}", f"steps={arguments.steps}", f"problem.features={arguments.parameters}"]
        for repeat in range(arguments.repeats):
            for number, (name, overrides) in enumerate(methods.items()):
                folder = Path(scratch) / f"{repeat}-{number}"
                command = [sys.executable, "-m", "gcdl", "run", str(CONFIG), *size, *overrides, "--out", str(folder)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                steps = [json.loads(line)["seconds"] for line in (folder / "steps.jsonl").read_text().splitlines()]
                seconds[name].append(steps[5:])
    table = Table(title=f"{arguments.parameters:,} parameters, {arguments.workers} workers, shared memory")
    for column in ("compressor", "ms a step, each run", "median", "identity / this", "first decile", "identity / this"):
        table.add_column(column)
    shown = {}
    for name, runs in seconds.items():
        every = [value for run in runs for value in run]
        shown[name] = [statistics.median(run) for run in runs], statistics.median(every), statistics.quantiles(every, n=10)[0]
    _, base, least = shown["identity"]
    for name, (medians, median, decile) in shown.items():
        table.add_row(
            name, ", ".join(f"{1e3 * value:.1f}" for value in medians), f"{1e3 * median:.1f}", f"{base / median:.2f}",
            f"{1e3 * decile:.1f}", f"{least / decile:.2f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()

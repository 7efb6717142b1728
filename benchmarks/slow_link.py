"""How long is a step over links of 100 Mbit/s? The master on one host, eight workers on two others; d = 1,000,000.

Linear regression with one sample a shard: computing takes next to nothing, so a step is the exchange. Each method is one run
over hosts made by hosts.py; seconds a step are medians. Bytes up and down are those that gcdl counts; beside them what the
master's network interface counts, start-up and the headers of all layers included. Needs root.

    python benchmarks/slow_link.py [--rate 100] [--delay 5] [--parameters 1000000] [--steps 8] [--only sign]      # 2 minutes
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import hosts as lab
from hosts import Hosts
from rich.console import Console
from rich.table import Table

from gcdl.config import parse
from gcdl.errors import ConfigError

CONFIG = """
workers = 8
steps = {steps}
[problem]
kind = "linear_regression"
features = {parameters}
samples = 1
[code]
kind = "uncoded"
[wait]
kind = "first_replies"
count = 8
[optimizer]
lr = 1e-9
[run]
eval_every = 0
checkpoint_every = 0
"""
METHODS = {
    "float32 both ways": ["compressor.kind=identity"],
    "one bit up, float32 down": ["compressor.kind=sign"],
    "one bit up, votes down": ["compressor.kind=sign", "downlink.kind=votes"],
    "one bit both ways": ["compressor.kind=sign", "downlink.kind=sign"],
}
SLOTS = (1, 4, 4)
SKIP = 2
"""Steps left out at the beginning: connections are made in them, and the first model goes down whole."""


def measure(text: str, overrides: list[str], steps: int, hosts: Hosts, folder: Path) -> tuple[float, dict[str, float]]:
    """Run a config over the hosts; return the median seconds of a step, and megabytes: gcdl's, and the interface's."""
    config = folder / "config.toml"
    folder.mkdir()
    config.write_text(text)
    before = hosts.traffic()["host1"]
    command = [*hosts.mpirun(9), sys.executable, "-m", "gcdl", "train", str(config), *overrides, f"steps={steps}"]
    subprocess.run([*command, "--out", str(folder / "run")], check=True, stdout=subprocess.DEVNULL, env=hosts.environment())
    after = hosts.traffic()["host1"]
    seconds = [json.loads(line)["seconds"] for line in (folder / "run" / "steps.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "run" / "summary.json").read_text())
    return statistics.median(seconds[SKIP:]), {
        "up": summary["uplink_bytes"] / 1e6,
        "down": summary["downlink_bytes"] / 1e6,
        "received": (after.received - before.received) / 1e6,
        "sent": (after.sent - before.sent) / 1e6,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=100.0, help="Mbit/s of each host's link")
    parser.add_argument("--delay", type=float, help="milliseconds, one way")
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=8, help="of float32; the others take ten times as many")
    parser.add_argument("--only", help="methods whose name has this in it")
    given = parser.parse_args()
    if missing := lab.why_not():
        raise SystemExit(f"no hosts: {missing}")
    text = CONFIG.format(steps=given.steps, parameters=given.parameters)
    delay = "" if given.delay is None else f", {given.delay:g} ms"
    table = Table(title=f"{given.parameters:,} parameters, 8 workers on 2 hosts, links of {given.rate:g} Mbit/s{delay}")
    for column in ("method", "s a step", "ratio", "MB a step up", "down", "link: in", "out"):
        table.add_column(column)
    base = None
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, overrides) in enumerate(METHODS.items()):
            if given.only and given.only not in name:
                continue
            try:
                parse(text, overrides)
            except ConfigError as error:
                Console().print(f"{name}: not in this version: {error}")
                continue
            steps = given.steps if number == 0 else 10 * given.steps if "down" not in name else 2 * given.steps
            with Hosts(3, rate_mbit=given.rate, delay_ms=given.delay, slots=SLOTS) as hosts:
                median, mb = measure(text, overrides, steps, hosts, Path(scratch) / str(number))
            base = base or median
            row = [f"{base / median:.1f}", *(f"{mb[key] / steps:.2f}" for key in ("up", "down", "received", "sent"))]
            table.add_row(name, f"{median:.3f}", *row)
    Console().print(table)


if __name__ == "__main__":
    main()

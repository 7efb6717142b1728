"""Does the job, not just the round, take as long as if the straggler weren't there?

Runs one config by turns without a straggler, with one worker late by SECONDS in every step, and, for scale, with that
straggler and a master that waits for all; prints the wall seconds of each job and the ratios of their medians.

    python benchmarks/straggler.py [--steps 60] [--seconds 1.0] [--repeats 3] [--config configs/quickstart.toml]
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

ROOT = Path(__file__).resolve().parent.parent


def job(config: Path, folder: Path, *overrides: str) -> float:
    """Run one job and return its wall seconds, start-up and shutdown included."""
    command = [sys.executable, "-m", "gcdl", "run", str(config), *overrides, "--out", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    wall: float = json.loads((folder / "summary.json").read_text())["wall_seconds"]
    return wall


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.toml")
    arguments = parser.parse_args()

    common = (f"steps={arguments.steps}", "run.eval_every=0", "run.checkpoint_every=0")
    late = ("stragglers.kind=fixed", "stragglers.workers=[3]", f"stragglers.seconds={arguments.seconds}")
    cases = {
        "no straggler": (*common, "stragglers.kind=none"),
        "worker 3 late, first n - s replies": (*common, *late),
        "worker 3 late, waiting for all": (*common, *late, "wait.kind=first_replies", "wait.count=8"),
    }
    walls: dict[str, list[float]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(arguments.repeats):
            for number, (name, overrides) in enumerate(cases.items()):
                if number == 2 and repeat:
                    continue  # once is enough to know how long that takes
                walls[name].append(job(arguments.config, Path(scratch) / f"{repeat}-{number}", *overrides))

    table = Table(title=f"{arguments.config.stem}, {arguments.steps} steps, worker 3 late by {arguments.seconds} s")
    for column in ("job", "wall seconds", "median", "ratio"):
        table.add_column(column)
    base = statistics.median(walls["no straggler"])
    for name, seconds in walls.items():
        median = statistics.median(seconds)
        table.add_row(name, ", ".join(f"{s:.1f}" for s in seconds), f"{median:.1f}", f"{median / base:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()

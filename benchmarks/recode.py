"""What is re-coding worth? A worker that becomes slow and stays so, workers that are lost, an allocation of half the size.

Logistic regression, 8 workers, 64 shards, 0.01 s a shard, one bit; 300 steps, and something happens at step 100:

- *slow*: worker 3 computes three times slower from then on; ``run.rebalance`` off and 1.5. The ideal is the work over the sum
  of the speeds.
- *lost*: workers 2 and 3, which hold the same shards (s = 1), are killed; ``run.on_loss`` recode and stop.
- *half*: the run is stopped, and resumed with 4 workers.

Each beside a run to which nothing happens. Seconds a step are of the last 100 steps; the losses of the last model, mean and
standard deviation over seeds. Simulated: the seconds are virtual. With ``--mpi`` jobs on this machine: then computing takes
what it takes, and seconds a step are real.

    python benchmarks/recode.py [--cases slow lost half] [--seeds 3] [--mpi]

5 minutes simulated, on 2 shared cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from gcdl.config import parse
from gcdl.errors import TooManyLost
from gcdl.stragglers import Delays, StepKey
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint, resume
from gcdl.training.watcher import Watcher

STEPS, WHEN, WORKERS, SHARDS, SHARD, FACTOR = 300, 100, 8, 64, 0.01, 3.0
CONFIG = f"""
workers = {WORKERS}
steps = {STEPS}
[problem]
kind = "logistic_regression"
features = 200
samples = 500
batch_size = 4
shards = {SHARDS}
[code]
kind = "fractional_repetition"
stragglers = 1
[compressor]
kind = "stochastic_sign"
[optimizer]
kind = "sgd"
lr = 0.1
[run]
eval_every = 0
checkpoint_every = 0
seconds_per_shard = {SHARD}
"""
UNCODED = ("code.kind=uncoded",)
SLOW = ("stragglers.kind=custom", "stragglers.factory=recode:SlowFrom", f"stragglers.options={{step = {WHEN}, worker = 3}}")
KILLED = "stragglers.events=[" + ", ".join(f'{{fault = "kill", worker = {worker}, step = {WHEN}}}' for worker in (2, 3)) + "]"


class SlowFrom:
    """From ``step`` on ``worker`` takes three times as long to compute."""

    def __init__(self, step: int, worker: int) -> None:
        self.step, self.worker = step, worker

    def delays_at(self, n: int, key: StepKey) -> Delays:
        """Return the delays of a step."""
        factor = np.ones(n)
        factor[self.worker] = FACTOR if key.step >= self.step else 1.0
        return Delays.of(n, factor=factor)


class Case(NamedTuple):
    """A run: its overrides, and those of its second part, if it is resumed at step WHEN."""

    name: str
    overrides: Sequence[str]
    then: Sequence[str] = ()
    ideal: float | None = None
    """Seconds a step, if every worker computed all the time and nothing else took time."""


def ideal(copies: int, speeds: float) -> float:
    """Return the work over the sum of the speeds."""
    return SHARDS * copies * SHARD / speeds


CASES = {
    "slow": [
        Case("s = 0, nothing happens", UNCODED, ideal=ideal(1, 8.0)),
        Case("s = 0, 3 times slower", (*UNCODED, *SLOW), ideal=ideal(1, 7.0 + 1.0 / FACTOR)),
        Case(
            "s = 0, 3 times slower, rebalance = 1.5", (*UNCODED, *SLOW, "run.rebalance=1.5"), ideal=ideal(1, 7.0 + 1.0 / FACTOR)
        ),
        Case("s = 1, 3 times slower", SLOW, ideal=ideal(2, 7.0 + 1.0 / FACTOR)),
        Case("s = 1, 3 times slower, rebalance = 1.5", (*SLOW, "run.rebalance=1.5"), ideal=ideal(2, 7.0 + 1.0 / FACTOR)),
        Case("s = 1, waiting for all", (*SLOW, "wait.count=8"), ideal=ideal(2, 7.0 + 1.0 / FACTOR)),
        Case(
            "s = 1, waiting for all, rebalance = 1.5",
            (*SLOW, "wait.count=8", "run.rebalance=1.5"),
            ideal=ideal(2, 7.0 + 1.0 / FACTOR),
        ),
    ],
    "lost": [
        Case("nothing happens", ()),
        Case("two of eight lost, on_loss = recode", (KILLED,)),
        Case("two of eight lost, on_loss = stop", (KILLED, "run.on_loss=stop")),
    ],
    "half": [
        Case("nothing happens", ()),
        Case("resumed with 4 workers", (), ("workers=4",)),
        Case("resumed with 8 workers", (), ("workers=8",)),
    ],
}


class Result(NamedTuple):
    """What a run came to: steps done, seconds a step of the last 100, training and test loss."""

    steps: int
    seconds: float
    train: float
    test: float


def simulated(case: Case, seed: int, folder: Path) -> None:
    """Simulate a run."""
    parts = [f"seed={seed}", *(f"steps={WHEN}" for _ in case.then[:1])]
    try:
        simulate(StartingPoint(parse(CONFIG, [*case.overrides, *parts]), folder), Watcher())
        if case.then:
            simulate(resume(folder, [f"steps={STEPS}", *case.then]).for_workers(_workers(case)), Watcher())
    except TooManyLost:
        pass  # the record says how far it came


def _workers(case: Case) -> int:
    return next(int(word.removeprefix("workers=")) for word in case.then if word.startswith("workers="))


def measured(case: Case, seed: int, folder: Path) -> None:
    """Run a job over MPI."""
    config = folder.with_suffix(".toml")
    config.write_text(CONFIG)
    parts = [f"seed={seed}", *(f"steps={WHEN}" for _ in case.then[:1])]
    commands = [["run", str(config), *case.overrides, *parts, "--out", str(folder)]]
    if case.then:
        commands.append(["resume", str(folder), f"steps={STEPS}", *case.then])
    here = Path(__file__).resolve().parent
    search = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "gcdl", *command],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": search},
            check=False,
        )
        if done.returncode not in (0, 3):
            raise SystemExit(f"gcdl {' '.join(command)}: exit code {done.returncode}")


def result(folder: Path) -> Result:
    """Read what a run came to."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text()) if (folder / "summary.json").exists() else {}
    last = lines[-100:]
    return Result(
        len(lines),
        sum(line["seconds"] for line in last) / len(last),
        summary.get("final_train_loss") or float("nan"),
        summary.get("final_test_loss") or float("nan"),
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--mpi", action="store_true", help="jobs over MPI, not simulations")
    arguments = parser.parse_args()
    run = measured if arguments.mpi else simulated
    for name in arguments.cases:
        table = Table(title=f"{name}, {'over MPI' if arguments.mpi else 'simulated'}")
        for column in ("run", "steps", "seconds a step", "of the ideal", "training loss", "test loss"):
            table.add_column(column)
        for case in CASES[name]:
            found = []
            with tempfile.TemporaryDirectory() as scratch:
                for seed in range(arguments.seeds):
                    run(case, seed, Path(scratch) / str(seed))
                    found.append(result(Path(scratch) / str(seed)))
            seconds = statistics.mean(one.seconds for one in found)
            times = f"{seconds / case.ideal:.2f}" if case.ideal and not arguments.mpi else ""
            losses = (
                f"{statistics.mean(x):.4f} ± {np.std(x):.4f}" for x in zip(*((r.train, r.test) for r in found), strict=True)
            )
            table.add_row(case.name, str(min(one.steps for one in found)), f"{seconds:.4f}", times, *losses)
        Console(width=140).print(table)


if __name__ == "__main__":
    main()

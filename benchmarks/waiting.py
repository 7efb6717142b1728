"""How good is ``wait.kind = "adaptive"``, against the best fixed rule for each kind of delay? Seconds to a target loss.

Logistic regression, 8 workers, 0.01 s a shard, simulated. The fixed rules: the first 3 to 8 replies, ``decodable``, and seven
deadlines, 1.02 to 4 times the seconds that a worker without delay takes. Each runs until the test loss reaches the target, with
every kind of delay; seeds draw data, minibatches and delays. The recorded trace is of a run over MPI on this machine, in which
the master waited for all replies.

    python benchmarks/waiting.py [--codes uncoded sgc ...] [--delays bursts ...] [--seeds 3] [--trace FILE] [--rules]

20 minutes on 2 shared cores.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from gcdl.config import parse
from gcdl.training.roles.simulation import simulated_run
from gcdl.training.starting_point import StartingPoint
from gcdl.training.watcher import Watcher

CONFIG = """
workers = 8
steps = 700
[problem]
kind = "logistic_regression"
features = 200
samples = 4000
batch_size = 16
[compressor]
kind = "stochastic_sign"
[optimizer]
kind = "sgd"
lr = 0.1
[run]
eval_every = 4
checkpoint_every = 0
"""
TARGET = 0.42
SHARD = 0.01
"""Seconds that a shard takes."""
LOADS = {"uncoded": 1, "fractional_repetition": 2, "cyclic_repetition": 2, "sgc": 2}
"""Shards of a worker."""
DELAYS = {
    "none": ("stragglers.kind=none",),
    "bernoulli, 0.25 s": ("stragglers.kind=bernoulli", "stragglers.p=0.2", "stragglers.seconds=0.25"),
    "bernoulli, 0.03 s": ("stragglers.kind=bernoulli", "stragglers.p=0.2", "stragglers.seconds=0.03"),
    "bursts": ("stragglers.kind=bursts", "stragglers.p=0.2", "stragglers.length=10.0", "stragglers.seconds=0.1"),
    "exponential": ("stragglers.kind=exponential", "stragglers.seconds=0.02"),
    "pareto": ("stragglers.kind=pareto", "stragglers.shape=1.5", "stragglers.seconds=0.03"),
    "fixed": ("stragglers.kind=fixed", "stragglers.workers=[3]", "stragglers.seconds=0.5"),
}
RECORDED = "recorded trace"
RECORD = """
workers = 8
steps = 300
[problem]
kind = "linear_regression"
features = 20000
samples = 16
[wait]
count = 8
[optimizer]
lr = 1e-5
[run]
eval_every = 0
checkpoint_every = 0
"""


class Job(NamedTuple):
    """A rule, its overrides, those of the delays, and a seed."""

    rule: str
    overrides: Sequence[str]
    seed: int


def rules(load: int, unit: float) -> dict[str, list[str]]:
    """Return the overrides of each rule; ``unit``: seconds of a worker without delay."""
    found = {f"first {count}": ["wait.kind=first_replies", f"wait.count={count}"] for count in range(3, 9)}
    found["decodable"] = ["wait.kind=decodable"]
    for times in (1.02, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0):
        found[f"deadline {times:g}"] = ["wait.kind=deadline", f"wait.seconds={times * unit}"]
    return {**found, "adaptive": ["wait.kind=adaptive"]}


def seconds_to_target(job: Job) -> float:
    """Return the virtual seconds until the test loss is the target's, interpolated between evaluations; inf: it never is."""
    seconds, before = 0.0, (0.0, math.inf)
    with tempfile.TemporaryDirectory() as scratch:
        run = simulated_run(
            StartingPoint(parse(CONFIG, [*job.overrides, f"seed={job.seed}"]), Path(scratch) / "run"), Watcher()
        )
        for record in run:
            seconds += record.seconds
            loss = record.test_loss
            if loss is None:
                continue
            if loss <= TARGET:
                run.close()
                share = (before[1] - TARGET) / (before[1] - loss) if math.isfinite(before[1]) else 1.0
                return before[0] + share * (seconds - before[0])
            before = seconds, loss
    return math.inf


def record_trace(folder: Path) -> Path:
    """Run a job over MPI and return the trace of its reply times."""
    config, run, trace = folder / "record.toml", folder / "recorded", folder / "trace.npz"
    config.write_text(RECORD)
    for command in (["run", str(config), "--out", str(run)], ["trace", str(run), "--out", str(trace)]):
        subprocess.run([sys.executable, "-m", "gcdl", *command], check=True, stdout=subprocess.DEVNULL)
    return trace


def median_reply(trace: Path) -> float:
    """Return the median reply time of a trace, in seconds."""
    with np.load(trace) as arrays:
        return float(np.median(arrays["seconds"]))


def compare(code: str, delays: str, overrides: Sequence[str], seeds: int, unit: float) -> dict[str, float]:
    """Return the mean seconds to the target of each rule."""
    choices = rules(LOADS[code], unit)
    common = [f"code.kind={code}", *overrides]
    jobs = [Job(rule, [*common, *wait], seed) for rule, wait in choices.items() for seed in range(seeds)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(seconds_to_target, jobs, chunksize=2)
    return {
        rule: statistics.mean(seconds for job, seconds in zip(jobs, found, strict=True) if job.rule == rule) for rule in choices
    }


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codes", nargs="+", choices=LOADS, default=["uncoded", "fractional_repetition"])
    parser.add_argument("--delays", nargs="+", choices=[*DELAYS, RECORDED], default=[*DELAYS, RECORDED])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trace", type=Path, help="a trace of 8 workers (.npz), in place of recording one")
    parser.add_argument("--rules", action="store_true", help="print all rules, not only the best ones")
    arguments = parser.parse_args()
    table = Table(title=f"seconds to a test loss of {TARGET}, mean of {arguments.seeds} seeds")
    for column in ("code", "delays", "best fixed rule", "seconds", "adaptive", "times", "first n - s", "decodable"):
        table.add_column(column)
    with tempfile.TemporaryDirectory() as scratch:
        known = dict(DELAYS)
        if RECORDED in arguments.delays:
            trace = arguments.trace or record_trace(Path(scratch))
            known[RECORDED] = ("stragglers.kind=trace", f"stragglers.file={trace.resolve()}", "run.seconds_per_shard=0")
        for code in arguments.codes:
            for delays in arguments.delays:
                unit = SHARD * LOADS[code] if delays != RECORDED else median_reply(trace)
                found = compare(code, delays, known[delays], arguments.seeds, unit)
                if arguments.rules:
                    print(code, delays, {rule: round(seconds, 3) for rule, seconds in found.items()}, flush=True)
                adaptive = found.pop("adaptive")
                best = min(found, key=found.__getitem__)
                usual = found["first 8" if code == "uncoded" else "first 7"]
                row = (best, f"{found[best]:.2f}", f"{adaptive:.2f}", f"{adaptive / found[best]:.2f}")
                table.add_row(code, delays, *row, f"{usual:.2f}", f"{found['decodable']:.2f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

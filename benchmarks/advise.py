"""Is the advice of ``gcdl advise`` any good? Six situations: a pilot run, the advice, and the best candidates really run.

For each situation: predicted against measured seconds a step of the candidates, and the regret, how much longer the recommended
config takes than the best measured one that leaves out no shard. The links of "slow link" are network namespaces at 100 Mbit/s.

    python benchmarks/advise.py [--only "one slow worker"] [--candidates 10] [--steps 60] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from hosts import Hosts, why_not
from rich.console import Console
from rich.table import Table

from gcdl.analysis.advise.advice import Advice, advise
from gcdl.analysis.advise.choice_of_rows import name_of
from gcdl.analysis.advise.laboratory import Tried
from gcdl.analysis.advise.pilot import pilot_toml
from gcdl.config import Config, parse
from gcdl.training.run_reader import read_run

CONFIG = """
workers = {workers}
[problem]
kind = "linear_regression"
features = {features}
samples = {samples}
[optimizer]
kind = "{optimizer}"
lr = 1e-6
[run]
eval_every = 0
checkpoint_every = 0
[stragglers]
kind = "sum"
models = [{models}]
"""
WARM_UP = 3
CLOSE = 0.15


@dataclass(frozen=True)
class Situation:
    """A run that somebody may have.

    Attributes
    ----------
    delays : tables of [stragglers], as TOML, beside the computing that all situations share.
    workers, features, optimizer : of the config.
    hosts : namespaced ones, at 100 Mbit/s; 0: shared memory.
    slowness : a worker computes for some tenths of a millisecond, and then sleeps so many times as long: its seconds grow with
        its shards, as real computing's do, but 6 workers do not need 6 cores.
    """

    delays: tuple[str, ...] = ()
    workers: int = 6
    features: int = 2000
    optimizer: str = "sgd"
    hosts: int = 0
    slowness: float = 100.0

    def config(self) -> Config:
        """Return its config."""
        models = ", ".join((f'{{kind = "speeds", factors = {self.slowness}}}', *self.delays))
        samples = max(1, 400_000 // self.features)
        sizes = {"workers": self.workers, "features": self.features, "samples": samples}
        return parse(CONFIG.format(**sizes, optimizer=self.optimizer, models=models))


SITUATIONS = {
    "one slow worker": Situation(('{kind = "fixed", workers = [2], seconds = 0.25}',)),
    "bursts": Situation(('{kind = "bursts", p = 0.15, length = 8.0, seconds = 0.25}',)),
    "heavy tails": Situation(('{kind = "pareto", shape = 1.5, seconds = 0.03}',)),
    "slow link": Situation(workers=4, features=200_000, hosts=3),
    "slow master": Situation(workers=4, features=2_000_000, optimizer="adam", slowness=4.0),
    "nothing wrong": Situation(),
}


def run(config: Config, folder: Path, hosts: Hosts | None) -> None:
    """Run a config over MPI."""
    path = folder.with_suffix(".toml")
    path.write_text(config.toml())
    command = [sys.executable, "-m", "gcdl", "run", str(path), "--out", str(folder)]
    environment = None
    if hosts is not None:
        ranks = config.run.ranks(config.workers or 0)
        command = [*hosts.mpirun(ranks), sys.executable, "-m", "gcdl", "train", str(path), "--out", str(folder)]
        environment = hosts.environment()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")


def measured(folder: Path) -> tuple[float, float]:
    """Return the mean seconds of a run's steps, the first ones left out, and the standard error of that mean."""
    seconds = np.array([line["seconds"] for line in read_run(folder).steps[WARM_UP:]])
    return float(seconds.mean()), float(seconds.std(ddof=1) / np.sqrt(len(seconds)))


def candidates(advice: Advice, count: int) -> list[Tried]:
    """Return the recommended config, the plainest, and the fastest as predicted of each code, wait rule and downlink."""
    best = advice.recommendation.best
    found = {_kinds(best): best, _kinds(advice.own): advice.own}
    for one in sorted((one for one in advice.tried if one.exact), key=lambda one: one.prediction.seconds):
        if len(found) < count:
            found.setdefault(_kinds(one), one)
    return list(found.values())


def _kinds(one: Tried) -> tuple[Any, ...]:
    candidate = one.candidate
    kinds = (candidate.kind(section) for section in ("code", "wait", "downlink"))
    return *kinds, candidate.stragglers, one.one_bit, one.masters


def judge(name: str, situation: Situation, folder: Path, count: int, steps: int) -> dict[str, Any]:
    """Make the pilot, take the advice, run the candidates."""
    wanted = situation.config()
    with hosts_of(situation) as hosts:
        pilot = parse(pilot_toml(wanted), ["steps=100"])
        run(pilot, folder / "pilot", hosts)
        advice = advise(folder / "pilot", wanted=wanted)
        rows = []
        for number, one in enumerate(candidates(advice, count)):
            tables = {**one.candidate.tables, "steps": steps}
            run(parse(tomli_w.dumps(tables)), folder / str(number), hosts)
            seconds, error = measured(folder / str(number))
            rows.append(
                {
                    "config": name_of(one), "predicted": one.prediction.seconds, "plus_minus": one.prediction.plus_minus,
                    "measured": seconds, "standard_error": error, "exact": one.exact,
                    "recommended": one is advice.recommendation.best,
                }
            )  # fmt: skip
    recommended = next(row["measured"] for row in rows if row["recommended"])
    close = [abs(row["predicted"] / row["measured"] - 1.0) <= CLOSE for row in rows]
    return {
        "situation": name,
        "slow": advice.slowness.kind,
        "links": advice.links.source,
        "reason": advice.recommendation.reason,
        "rows": rows,
        "close": float(np.mean(close)),
        "regret": recommended / min(row["measured"] for row in rows) - 1.0,
    }


@contextlib.contextmanager
def hosts_of(situation: Situation) -> Iterator[Hosts | None]:
    """Bring up a situation's hosts, if it has any."""
    if not situation.hosts:
        yield None
        return
    with Hosts(situation.hosts, rate_mbit=100) as hosts:
        yield hosts


def show(console: Console, found: dict[str, Any]) -> None:
    """Print a situation's table."""
    table = Table(title=f"{found['situation']}: {found['reason']}")
    for column in ("config", "predicted", "+-", "measured", "standard error", "off"):
        table.add_column(column, justify="left" if column == "config" else "right")
    for row in found["rows"]:
        off = row["predicted"] / row["measured"] - 1.0
        name = f"> {row['config']}" if row["recommended"] else row["config"]
        numbers = [f"{row[key]:.4g}" for key in ("predicted", "plus_minus", "measured", "standard_error")]
        table.add_row(name, *numbers, f"{off:+.0%}", style=None if abs(off) <= CLOSE else "yellow")
    console.print(table)
    console.print(f"slow: {found['slow']}; within {CLOSE:.0%}: {found['close']:.0%}; regret {found['regret']:.1%}\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=SITUATIONS, action="append")
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    results = []
    for name in given.only or SITUATIONS:
        situation = SITUATIONS[name]
        if situation.hosts and (missing := why_not()):
            console.print(f"{name}: no hosts: {missing}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            results.append(judge(name, situation, Path(folder), given.candidates, given.steps))
        show(console, results[-1])
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What do local steps cost in samples, and what do they buy over slow links? H = 1, 4, 16, 64; float32, and one bit both ways.

Fashion-MNIST (a CNN) and the character-level Transformer, four workers, two copies of each shard, worker 3 late in every step.
Every method gets the same samples: a run with H local steps has an H-th of the steps. Each method takes the outer optimizer
and the local rate with the lowest test loss for the first seed, of a grid; then all seeds run with them. Everything is
simulated: the models are trained, the seconds are virtual.

Beside them, without coding: DDP (float32 gradients, a ring all-reduce in each step, waits for all) and DiLoCo (float32
differences after 16 local steps, the same ring, waits for all). They train as our float32 does with all replies, so that only
their seconds differ; a ring's are computed: 2 (n - 1) / n * 4 d bytes over each link, after the slowest worker.

    python benchmarks/local.py fashion                  # 8 methods, IID and skewed, 3 seeds: about 5 hours on one core
    python benchmarks/local.py fashion --quick          # H = 1, 4, 16, one seed, a fifth of the samples, part of the grid
    python benchmarks/local.py characters --quick
    python benchmarks/local.py clock                    # seconds a step alone: n = 4 and 64, d = 1e6, seconds to compute

Runs are kept in --folder and not repeated: an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import gcdl
from gcdl.config import parse
from gcdl.examples import char_gpt
from gcdl.problems.datasets import fashion_mnist
from gcdl.problems.minibatches import shard_indices
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint

WORKERS = 4
LATE = 0.5
"""Seconds by which worker 3 is late in every step."""
LINKS = {"10 Mbit/s": 1.25e6, "100 Mbit/s": 1.25e7}
SECONDS = 0.01
"""Virtual seconds of one local step on one shard."""
ONE_BIT: dict[str, Any] = {
    "compressor": {"kind": "stochastic_sign", "scale": "rms", "clip": 1.5},
    "downlink": {"kind": "sign"},
}
METHODS: dict[str, dict[str, Any]] = {"float32": {}, "one bit": ONE_BIT}


@dataclass(frozen=True)
class Settings:
    """The outer optimizer, and the local one, as pairs of a key and its value; with one local step there is none."""

    outer: tuple[tuple[str, Any], ...]
    local: tuple[tuple[str, Any], ...] = ()

    def words(self) -> str:
        """Return them in words."""
        return ", ".join(
            " ".join(str(value) for key, value in one if key != "nesterov") for one in (self.outer, self.local) if one
        )


def sgd(lr: float, momentum: float = 0.0) -> tuple[tuple[str, Any], ...]:
    """Return an outer optimizer: SGD with Nesterov momentum."""
    return (("kind", "sgd"), ("lr", lr), ("momentum", momentum), ("nesterov", momentum > 0.0))


def adam(lr: float) -> tuple[tuple[str, Any], ...]:
    """Return an outer Adam."""
    return (("kind", "adam"), ("lr", lr))


@dataclass(frozen=True)
class Task:
    """A problem: how many local steps in all, and what to try."""

    steps: int
    plain: tuple[Settings, ...]
    local: tuple[Settings, ...]
    """The first four are those of --quick."""


FASHION = Task(
    1920,
    tuple(Settings(outer) for outer in (sgd(0.05, 0.9), adam(2e-3), sgd(0.1, 0.9), adam(1e-3))),
    (
        Settings(sgd(1.0), sgd(0.05, 0.9)),
        Settings(sgd(1.0), sgd(0.1, 0.9)),
        Settings(sgd(1.0), adam(1e-3)),
        Settings(sgd(0.7, 0.5), sgd(0.05, 0.9)),
        Settings(sgd(1.0), adam(2e-3)),
        Settings(sgd(1.0), sgd(0.2)),
        Settings(sgd(0.7, 0.5), adam(1e-3)),
        Settings(sgd(0.7, 0.5), sgd(0.1)),
    ),
)
CHARACTERS = Task(
    1920,
    tuple(Settings(adam(lr)) for lr in (2e-3, 4e-3, 8e-3)),
    tuple(Settings(outer, adam(lr)) for lr in (4e-3, 2e-3, 8e-3) for outer in (sgd(1.0), sgd(0.7, 0.5))),
)
TASKS = {"fashion": FASHION, "characters": CHARACTERS}


def cnn() -> Any:
    """Return a small convolutional network: 105,866 parameters."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def fashion(data: str, samples: int, *, skewed: bool, seed: int, **local: Any) -> gcdl.TorchProblem:
    """Return the problem; ``skewed``: each shard has the samples of two or three classes alone."""
    from torch.nn.functional import cross_entropy

    source = fashion_mnist(data)
    train, test = source.load_train(), source.load_test()
    images, labels = train.images[:samples], train.labels[:samples]
    if skewed:
        by_label = np.argsort(labels, kind="stable")
        arranged = np.empty_like(by_label)
        for places, samples in zip(shard_indices(len(labels), WORKERS, seed), np.array_split(by_label, WORKERS), strict=True):
            arranged[places] = samples
        images, labels = images[arranged], labels[arranged]
    x, y = (part[:, None] / np.float32(255) for part in (images, test.images))
    return gcdl.TorchProblem(cnn, cross_entropy, (x, labels), (y, test.labels), batch_size=16, **local)


def problem_of(name: str, given: argparse.Namespace, *, skewed: bool, seed: int, **local: Any) -> gcdl.TorchProblem:
    """Return a task's problem."""
    if name == "fashion":
        return fashion(given.data, given.samples, skewed=skewed, seed=seed, **local)
    return replace(char_gpt.problem(width=48, layers=2, length=48, characters=120_000), **local)


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    loss: float
    nbytes: int
    """Up and down."""
    curve: list[tuple[int, float]]
    """Steps done, test loss."""


def run(folder: Path, name: str, cell: dict[str, Any], settings: Settings, given: argparse.Namespace, seed: int) -> Outcome:
    """Train, or read what an earlier run came to."""
    task, h = TASKS[name], cell["h"]
    shards = "skewed" if cell["skewed"] else "iid"
    tried = f"{name}-{cell['method']}-H{h}-{shards}-{settings.words()}-{given.scale}-{seed}".replace(",", "")
    kept = folder / f"{tried.replace(' ', '-')}.json"
    if not kept.exists():
        steps = max(4, round(task.steps * given.scale / h))
        local = {"local_steps": h, "local_optimizer": dict(settings.local)} if h > 1 else {}
        trainer = gcdl.Trainer(
            problem_of(name, given, skewed=cell["skewed"], seed=seed, **local),
            workers=WORKERS,
            code={"kind": "fractional_repetition", "stragglers": 1},
            optimizer={**dict(settings.outer), "schedule": {"kind": "cosine" if h == 1 else "constant"}},
            stragglers={"kind": "fixed", "workers": [3], "seconds": 1e3},
            seed=seed,
            run={"eval_every": max(1, steps // 4), "checkpoint_every": 0},
            out=folder / "runs" / kept.stem,
            show=False,
            **METHODS[cell["method"]],
        )
        curve, nbytes = [], 0
        try:
            for record in trainer.fit(steps):
                nbytes += record.uplink_bytes + record.downlink_bytes
                if record.test_loss is not None:
                    curve.append((record.step + 1, record.test_loss))
        except gcdl.GcdlError:  # it has diverged
            curve = [(steps, float("inf"))]
        shutil.rmtree(folder / "runs")
        kept.write_text(json.dumps({"loss": curve[-1][1], "nbytes": nbytes, "curve": curve, "steps": steps}))
    found = json.loads(kept.read_text())
    return Outcome(found["loss"], found["nbytes"], found["curve"])


def compare(name: str, given: argparse.Namespace, console: Console) -> None:
    """Print a table of a task's methods, for IID shards and for skewed ones."""
    task = TASKS[name]
    for skewed in (False, True) if name == "fashion" else (False,):
        table = Table("method", "H", "outer, local lr", "test loss", "against float32, H = 1", "MB both ways", "fewer bytes")
        first: tuple[float, float] | None = None
        for method, h in product(METHODS, given.local_steps):
            cell = {"method": method, "h": h, "skewed": skewed}
            grid = task.plain if h == 1 else task.local
            grid = grid[: 2 if h == 1 else 4] if given.quick else grid
            best = min(grid, key=lambda one, cell=cell: run(given.folder, name, cell, one, given, 0).loss)  # type: ignore[misc]
            outcomes = [run(given.folder, name, cell, best, given, seed) for seed in range(given.seeds)]
            losses = [outcome.loss for outcome in outcomes]
            loss, spread = statistics.mean(losses), statistics.stdev(losses) if len(losses) > 1 else 0.0
            first = first or (loss, outcomes[0].nbytes)
            table.add_row(
                method, str(h), best.words(), f"{loss:.4f}" + (f" ± {spread:.4f}" if spread else ""),
                f"{100.0 * (loss / first[0] - 1.0):+.1f} %", f"{outcomes[0].nbytes / 1e6:.2f}",
                f"{first[1] / outcomes[0].nbytes:.0f}",
            )  # fmt: skip
        shards = "label-skewed" if skewed else "IID"
        table.title = f"{name}, {shards} shards; {round(task.steps * given.scale)} local steps in all"
        console.print(table)


CLOCK = """
workers = {n}
steps = 12
[problem]
kind = "linear_regression"
local_steps = {h}
[code]
kind = "fractional_repetition"
stragglers = 1
[compressor]
kind = "{compressor}"
[downlink]
kind = "{downlink}"
[wait]
timeout = 1e6
[stragglers]
kind = "fixed"
workers = [3]
seconds = {late}
[run]
seconds_per_shard = {seconds}
[simulate]
parameters = {d}
latency = 1e-3
bandwidth = {link}
master_bandwidth = {link}
decode_seconds_per_coordinate = 2e-10
"""


class Quiet:
    """Watches a run and says nothing."""

    def begin(self, config: gcdl.Config, folder: Path, done: int) -> None:
        """Do nothing."""

    def step(self, record: gcdl.StepRecord) -> None:
        """Do nothing."""

    def say(self, line: str) -> None:
        """Do nothing."""


def seconds_of(folder: Path, method: str, n: int, h: int, link: float, d: int) -> float:
    """Return the virtual seconds of a local step: those of a step over H."""
    compressor, downlink = ("stochastic_sign", "sign") if method == "one bit" else ("identity", "model")
    text = CLOCK.format(n=n, h=h, compressor=compressor, downlink=downlink, late=LATE, seconds=SECONDS, link=link, d=d)
    shutil.rmtree(folder / "clock", ignore_errors=True)
    simulate(StartingPoint(parse(text), folder / "clock", timing_only=True), Quiet())
    lines = [json.loads(line) for line in (folder / "clock" / "steps.jsonl").read_text().splitlines()]
    return float(np.median([line["seconds"] for line in lines[4:]])) / h


def ring_seconds(n: int, h: int, link: float, d: int) -> float:
    """Return the seconds of a local step where a ring all-reduce in float32 waits for all: DDP (H = 1), DiLoCo."""
    return (h * SECONDS + LATE + 2.0 * (n - 1) / n * 4.0 * d / link) / h


def clock(given: argparse.Namespace, console: Console) -> None:
    """Print how many virtual seconds a local step takes, and how much faster that is than DDP and DiLoCo."""
    for (name, link), n in product(LINKS.items(), (WORKERS, 64)):
        ddp, diloco = (ring_seconds(n, h, link, given.parameters) for h in (1, 16))
        table = Table("method", "H", "ms a local step", "times as fast as DDP", "as DiLoCo, H = 16")
        table.title = f"{name}, n = {n}, d = {given.parameters:,}"
        rows = [("DDP (ring, float32)", 1, ddp), ("DiLoCo (ring, float32)", 16, diloco)]
        rows += [(m, h, seconds_of(given.folder, m, n, h, link, given.parameters)) for m, h in product(METHODS, (1, 4, 16, 64))]
        for method, h, seconds in rows:
            table.add_row(method, str(h), f"{1e3 * seconds:.1f}", f"{ddp / seconds:.1f}", f"{diloco / seconds:.1f}")
        console.print(table)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*TASKS, "clock"))
    parser.add_argument("--quick", action="store_true", help="H = 1, 4, 16, one seed, a fifth of the samples, part of the grid")
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--parameters", type=int, default=1_000_000, help="d, of clock")
    parser.add_argument("--folder", type=Path, default=Path("local-benchmark"))
    given = parser.parse_args()
    given.local_steps = (1, 4, 16) if given.quick else (1, 4, 16, 64)
    given.samples = 20_000 if given.quick else 60_000
    given.seeds, given.scale = (1, 0.2) if given.quick else (3, 1.0)
    given.folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=110)
    if given.what == "clock":
        clock(given, console)
    else:
        compare(given.what, given, console)


if __name__ == "__main__":
    main()

"""Can one bit train as well as float32? Final loss and accuracy at equal steps, and at equal bits.

Every method runs under stochastic gradient coding, with the same stragglers, on one grid of learning rates; each takes the rate
with the lowest final training loss for the first seed, found by climbing from a guess until both neighbours are worse. Then
all seeds run at that rate. "At equal bits" is the loss, or accuracy, when the method has sent as much up as the most frugal one
does in all, headers left out; for float32 that is after a 32nd of the steps. Losses: of Fashion-MNIST the test loss; of linear
regression how far the training loss is above its minimum, which is the least squares solution's. "MB to float32's loss" is what
the method has sent up when the seeds' mean is first found at or below what float32 ends with; a method that doesn't get there
goes on for half as many steps again.

    python benchmarks/accuracy.py linear      # linear regression, n = k = 100, p = 0.1, 0.2, 0.4; about 50 minutes on one core
    python benchmarks/accuracy.py fashion     # Fashion-MNIST, MLP, n = 8 and 16, p = 0.2
    python benchmarks/accuracy.py linear --p 0.2 --methods "float32,sign,stochastic rms (correlated+subtractive)"

Runs are kept in --folder and not repeated: an interrupted benchmark goes on where it stopped. Prints a table, and writes it
with every curve's figure to the folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import shutil
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from gcdl.config import Config, Experiment, parse
from gcdl.errors import GcdlError
from gcdl.problems.linear_regression import LinearRegression
from gcdl.protocol.step_record import StepRecord
from gcdl.protocol.wire import HEADER_BYTES
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint

RATES = [10.0 ** (-4 + step / 4) for step in range(20)]  # 1e-4 to 5.6
SEEDS = 3
LONGER = 1.5

LINEAR = """
workers = 100
steps = 300
[problem]
kind = "linear_regression"
features = 100
samples = 10
noise = 1.0
[code]
kind = "sgc"
replication = 5
p = {p}
[wait]
kind = "deadline"
seconds = 10.0
[stragglers]
kind = "bernoulli"
p = {p}
seconds = inf
[run]
eval_every = 10
checkpoint_every = 0
"""
FASHION = """
workers = {n}
steps = 400
[problem]
kind = "classifier"
dataset = "fashion_mnist"
data = "{data}"
model = "mlp"
hidden = [128]
batch_size = {batch}
[code]
kind = "sgc"
replication = 3
p = {p}
[wait]
kind = "deadline"
seconds = 10.0
[stragglers]
kind = "bernoulli"
p = {p}
seconds = inf
[optimizer]
momentum = 0.9
[run]
eval_every = 20
checkpoint_every = 0
"""


@dataclass(frozen=True)
class Method:
    """A compressor's overrides, and the index in RATES where its search begins, for each of the two problems."""

    overrides: tuple[str, ...]
    linear: int
    fashion: int


def _method(kind: str, *, linear: int = 11, fashion: int = 11, **keys: object) -> Method:
    values = [f"compressor.{key}={json.dumps(value)}" for key, value in keys.items()]
    return Method((f"compressor.kind={kind}", *values), linear, fashion)


METHODS = {
    "float32": _method("identity"),
    "bfloat16": _method("identity", dtype="bfloat16"),
    "sign": _method("sign", linear=1, fashion=0),
    "scaled sign": _method("scaled_sign"),
    "scaled sign + feedback": _method("scaled_sign", error_feedback=True),
    "scaled sign in blocks of 256 + feedback": _method("scaled_sign", error_feedback=True, block=256),
    "two means + feedback": _method("two_mean", error_feedback=True),
    "noisy sign": _method("noisy_sign"),
    "noisy sign (correlated+subtractive)": _method("noisy_sign", dither="correlated+subtractive"),
    **{
        f"stochastic {scale} ({dither})": _method("stochastic_sign", scale=scale, dither=dither, clip=1.5)
        for scale in ("max", "rms")
        for dither in ("independent", "correlated", "subtractive", "correlated+subtractive")
    },
    "stochastic max in blocks of 256 (correlated+subtractive)": _method(
        "stochastic_sign", scale="max", block=256, dither="correlated+subtractive"
    ),
    "stochastic rms (correlated+subtractive) + feedback": _method(
        "stochastic_sign", scale="rms", clip=1.0, dither="correlated+subtractive", error_feedback=True
    ),
    "stochastic l2 (correlated+subtractive)": _method("stochastic_sign", scale="l2", dither="correlated+subtractive"),
}


@dataclass(frozen=True)
class Curve:
    """What a run showed at each evaluation: steps done, payload bytes sent up, loss and test accuracy."""

    steps: list[int]
    bytes_up: list[int]
    loss: list[float]
    accuracy: list[float]
    final: float
    """The loss over the whole training set at the end; inf if the run diverged."""

    def at(self, bytes_up: float, values: list[float]) -> float:
        """Return the last value before more than ``bytes_up`` were sent."""
        within = [value for value, sent in zip(values, self.bytes_up, strict=True) if sent <= bytes_up * 1.001]
        return within[-1] if within else math.nan


class _Quiet:
    """A run's watcher that keeps what it saw."""

    def __init__(self) -> None:
        self.records: list[StepRecord] = []

    def begin(self, config: Config, folder: Path, done: int) -> None:
        """Nothing to show."""

    def step(self, record: StepRecord) -> None:
        """Keep it."""
        self.records.append(record)

    def say(self, line: str) -> None:
        """Nothing to show."""


def run(text: str, folder: Path, method: str, rate: int, seed: int, factor: float = 1.0) -> Curve:
    """Return the curve of a run of ``factor`` times as many steps; from its file if there is one."""
    longer = "" if factor == 1.0 else f"-{factor:g}"
    file = folder / f"{re.sub(r'[^a-z0-9+]+', '_', method)}-rate{rate}-seed{seed}{longer}.json"
    if file.exists():
        return Curve(**json.loads(file.read_text()))
    overrides = [f"seed={seed}", f"optimizer.lr={RATES[rate]}", *METHODS[method].overrides]
    watcher, out = _Quiet(), file.with_suffix(".run")
    shutil.rmtree(out, ignore_errors=True)
    config = parse(text, [*overrides, f"steps={round(factor * parse(text).steps)}"])
    least = minimum(config)
    try:
        final = simulate(StartingPoint(config, out), watcher).final_train_loss
    except GcdlError:  # a gradient that is not finite
        final = None
    sent, recent = 0, []
    curve = Curve([], [], [], [], math.inf if final is None or not math.isfinite(final) else final - least)
    for record in watcher.records:
        sent += record.uplink_bytes - HEADER_BYTES * (len(record.replies) + record.late)
        recent = [*recent, record.train_loss][-10:]
        if record.test_loss is not None:
            curve.steps.append(record.step + 1)
            curve.bytes_up.append(sent)
            curve.loss.append(statistics.fmean(recent) - least if least else record.test_loss)
            curve.accuracy.append(math.nan if record.test_accuracy is None else record.test_accuracy)
    shutil.rmtree(out, ignore_errors=True)
    file.write_text(json.dumps(curve.__dict__))
    return curve


def minimum(config: Config) -> float:
    """Return the least possible training loss of a linear regression; 0 for another problem."""
    problem = Experiment.of(config, config.workers or 0).problem
    if not isinstance(problem, LinearRegression):
        return 0.0
    shards = [problem.shard(shard) for shard in range(problem.k)]
    X, y = np.concatenate([shard.X for shard in shards]), np.concatenate([shard.y for shard in shards])
    residual = X @ np.linalg.lstsq(X, y)[0] - y
    return 0.5 * float(np.mean(residual**2))


def tuned(text: str, folder: Path, start: int, method: str) -> tuple[int, list[Curve]]:
    """Return the best rate's index and the curves of all seeds at it."""
    losses: dict[int, float] = {}

    def loss(rate: int) -> float:
        if rate not in losses:
            losses[rate] = run(text, folder, method, rate, 0).final if 0 <= rate < len(RATES) else math.inf
        return losses[rate]

    best = start
    while math.isinf(loss(best)) and best > 0:
        best -= 2
    while True:
        better = min((best - 1, best + 1), key=loss)
        if loss(better) >= loss(best):
            break
        best = better
    return best, [run(text, folder, method, best, seed) for seed in range(SEEDS)]


def bytes_to(target: float, curves: list[Curve]) -> float:
    """Return the payload bytes sent up when the mean loss of the seeds first is at most ``target``; NaN if it never is."""
    for sent, *losses in zip(curves[0].bytes_up, *(curve.loss for curve in curves), strict=False):
        if statistics.fmean(losses) <= target:
            return float(sent)
    return math.nan


def reaching(text: str, folder: Path, target: float, result: tuple[int, list[Curve]], method: str) -> float:
    """Return :func:`bytes_to` of a tuned method, which goes on for longer if it has to."""
    rate, curves = result
    found = bytes_to(target, curves)
    if math.isnan(found) and all(math.isfinite(curve.final) for curve in curves):
        found = bytes_to(target, [run(text, folder, method, rate, seed, LONGER) for seed in range(SEEDS)])
    return found


def table(
    name: str, results: dict[str, tuple[int, list[Curve]]], reached: dict[str, float], folder: Path, console: Console
) -> None:
    """Print and write one problem's results; ``reached``: bytes to float32's loss, NaN if it is out of reach."""
    budget = min(curve.bytes_up[-1] for _, curves in results.values() for curve in curves if curve.bytes_up)
    shown = Table(title=f"{name}: mean and standard deviation of {SEEDS} seeds")
    columns = [
        "method",
        "rate",
        "training loss",
        "last loss",
        "accuracy",
        "loss at equal bits",
        "accuracy at equal bits",
        "MB up",
        "MB to float32's loss",
    ]
    for column in columns:
        shown.add_column(column)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        heads = [f"{column} {part}" for column in columns[2:7] for part in ("mean", "std")]
        writer.writerow([*heads, "method", "rate", *columns[7:]])
        for method, (rate, curves) in sorted(results.items(), key=lambda item: item[1][1][0].final):
            figures = [
                [curve.final for curve in curves],
                [curve.loss[-1] for curve in curves],
                [100 * curve.accuracy[-1] for curve in curves],
                [curve.at(budget, curve.loss) for curve in curves],
                [100 * curve.at(budget, curve.accuracy) for curve in curves],
            ]
            pairs = [(float(np.mean(values)), float(np.std(values, ddof=1))) for values in figures]
            megabytes = statistics.fmean(curve.bytes_up[-1] for curve in curves) / 1e6
            to_loss = reached.get(method, math.nan) / 1e6
            shown_to_loss = "" if method not in reached else "not reached" if math.isnan(to_loss) else f"{to_loss:.1f}"
            cells = ["" if math.isnan(mean) else f"{mean:.4g} ± {spread:.1g}" for mean, spread in pairs]
            shown.add_row(method, f"{RATES[rate]:.2g}", *cells, f"{megabytes:.1f}", shown_to_loss)
            writer.writerow([value for pair in pairs for value in pair] + [method, RATES[rate], megabytes, to_loss])
    console.print(shown)


def figure(name: str, results: dict[str, tuple[int, list[Curve]]], path: Path) -> None:
    """Draw the test loss against steps and against bytes: mean and spread over the seeds."""
    import matplotlib.pyplot as plt

    chosen = [method for method in FIGURE if method in results]
    fig, axes = plt.subplots(1, 2, figsize=(11, 5), sharey=True, layout="constrained")
    for number, method in enumerate(chosen):
        curves = results[method][1]
        middle = [statistics.fmean(values) for values in zip(*(curve.loss for curve in curves), strict=True)]
        low = [min(values) for values in zip(*(curve.loss for curve in curves), strict=True)]
        high = [max(values) for values in zip(*(curve.loss for curve in curves), strict=True)]
        style = {"color": COLOURS[number % 8], "linestyle": ("-", "--", "-.", ":")[number % 4]}
        for axis, x in ((axes[0], curves[0].steps), (axes[1], [b / 1e6 for b in curves[0].bytes_up])):
            axis.plot(x, middle, label=method, **style)
            axis.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes[0].set(xlabel="steps", ylabel="loss", yscale="log", title=name)
    axes[1].set(xlabel="megabytes sent up", xscale="log")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    for axis in axes:
        axis.grid(alpha=0.3)
    fig.savefig(path, dpi=150)
    plt.close(fig)


# Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS = ["#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#999999"]
FIGURE = [
    "float32", "sign", "scaled sign + feedback", "stochastic rms (independent)", "stochastic rms (correlated)",
    "stochastic rms (subtractive)", "stochastic rms (correlated+subtractive)", "two means + feedback",
]  # fmt: skip


def settings(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the configs to run, by name."""
    if arguments.problem == "linear":
        return {f"linear regression, n = k = 100, p = {p}": LINEAR.format(p=p) for p in arguments.p}
    return {
        f"Fashion-MNIST, n = {n}, p = {p}": FASHION.format(n=n, p=p, batch=512 // n, data=arguments.data)
        for n in arguments.workers
        for p in arguments.p
    }


def main() -> None:
    """Run, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", choices=["linear", "fashion"])
    parser.add_argument("--p", type=lambda text: [float(part) for part in text.split(",")], help="straggling probabilities")
    parser.add_argument(
        "--workers", type=lambda text: [int(part) for part in text.split(",")], default=[8, 16], help="n, of fashion"
    )
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    parser.add_argument("--folder", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--jobs", type=int, default=1, help="methods at a time")
    arguments = parser.parse_args()
    if unknown := set(arguments.methods) - set(METHODS):
        parser.error(f"no such method: {', '.join(sorted(unknown))}; there are: {', '.join(METHODS)}")
    arguments.p = arguments.p or ([0.1, 0.2, 0.4] if arguments.problem == "linear" else [0.2])
    console = Console(width=200)
    every = settings(arguments)
    with ProcessPoolExecutor(arguments.jobs) as pool, Progress(console=console) as progress:
        task = progress.add_task("methods", total=len(every) * len(arguments.methods))
        for name, text in every.items():
            folder = arguments.folder / name.replace(" ", "").replace("=", "").replace(",", "-")
            folder.mkdir(parents=True, exist_ok=True)
            starts = [getattr(METHODS[method], arguments.problem) for method in arguments.methods]
            results: dict[str, Any] = {}
            work = partial(tuned, text, folder)
            for method, result in zip(arguments.methods, pool.map(work, starts, arguments.methods), strict=True):
                results[method] = result
                progress.advance(task)
            reached: dict[str, float] = {}
            if "float32" in results:
                target = statistics.fmean(curve.loss[-1] for curve in results["float32"][1])
                found = pool.map(partial(reaching, text, folder, target), results.values(), results)
                reached = dict(zip(results, found, strict=True))
            table(name, results, reached, folder, console)
            figure(name, results, folder / "loss.svg")
            figure(name, results, folder / "loss.png")


if __name__ == "__main__":
    main()

"""How fast is one bit? Every kernel against memcpy of the same float32 vector, and against textbook code, in one run.

Each round times memcpy (numpy.copyto of 4 d bytes) and then each way once, in CPU time; shown are medians over the rounds:
nanoseconds a coordinate, and x, a way's time over memcpy's in the same round. Textbook code is what one writes first.

    python benchmarks/kernels.py [--sizes 1e5,1e6,25e6] [--workers 8,16,64] [--folder runs/kernels]    # 6 minutes on one core
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from gcdl.compressors import Codec, Compressor, Draw, ErrorFeedback, Message, ScaledSign, Sign, StochasticSign
from gcdl.compressors.kernels import Rows, blocks, kernels_for, packed_bytes
from gcdl.types import Buffer, Layout, Vector, aligned_buffer

WAYS = ("numpy", "native", "textbook")
Ways = dict[str, Callable[[], object]]


@contextmanager
def kernels(name: str) -> Iterator[None]:
    """Codecs made in this block use these kernels."""
    os.environ["GCDL_KERNELS"] = name
    try:
        yield
    finally:
        del os.environ["GCDL_KERNELS"]


def codecs(compressor: Compressor, layout: Layout) -> dict[str, Codec]:
    """Return a codec of each kind of kernel."""
    made = {}
    for name in WAYS[:2]:
        with kernels(name):
            made[name] = compressor.codec(layout)
    return made


def textbook_encode(x: Vector) -> Buffer:
    """Sign, shift, cast, pack."""
    return np.packbits(((np.sign(x) + 1) / 2).astype(np.uint8))


def textbook_stochastic(x: Vector, rng: np.random.Generator) -> Buffer:
    """A uniform number for each coordinate."""
    return np.packbits((rng.random(x.size) < 0.5 + x / (2 * np.abs(x).max())).astype(np.uint8))


def textbook_feedback(x: Vector, residual: Vector) -> tuple[Buffer, Vector]:
    """Add, scale, subtract."""
    y = x + residual
    sent = np.abs(y).mean() * np.sign(y)
    return textbook_encode(y), y - sent


def textbook_decode(messages: list[Message], d: int) -> Vector:
    """One message after another."""
    total = np.zeros(d, dtype=np.float32)
    for message in messages:
        total += message.weight * (2.0 * np.unpackbits(message.payload)[:d].astype(np.float32) - 1.0)
    return total


def decoding(compressor: Compressor, layout: Layout, x: Vector, n: int, *, textbook: bool = False) -> Ways:
    """Return the ways to decode n weighted messages."""
    into, made = np.empty(layout.size, dtype=np.float32), codecs(compressor, layout)
    payload = aligned_buffer(made["numpy"].payload_bytes)
    made["numpy"].compress(x.copy(), None, Draw(0, 0, 0, n), payload)
    messages = [Message(payload.copy(), 1.0 + i / n, Draw(0, 0, i, n)) for i in range(n)]
    ways: Ways = {name: partial(codec.decode, messages, into) for name, codec in made.items()}
    if textbook:
        bits = [message._replace(payload=message.payload[: packed_bytes(layout.size)]) for message in messages]
        ways["textbook"] = lambda: textbook_decode(bits, layout.size)
    return ways


def voting(d: int, n: int, rng: np.random.Generator) -> Ways:
    """Return the ways to count n votes."""
    rows = Rows([rng.integers(0, 256, packed_bytes(d), dtype=np.uint8) for _ in range(n)])
    planes = np.empty((n.bit_length(), packed_bytes(d)), dtype=np.uint8)

    def counting(name: str) -> Callable[[], object]:
        with kernels(name):
            made = kernels_for(d)

        def count() -> None:
            for _, where in blocks(d):
                made.count_votes(rows, [1] * n, where, planes[:, where])

        return count

    textbook = lambda: sum(np.unpackbits(row).astype(np.int32) for row in rows.rows)  # noqa: E731
    return {**{name: counting(name) for name in WAYS[:2]}, "textbook": textbook}


def questions(d: int, workers: list[int]) -> Iterator[tuple[str, Ways]]:
    """Yield each kernel's ways of doing it, one at a time: the buffers of 64 workers are large."""
    layout = Layout(("weight",), ((d,),))
    rng = np.random.default_rng(0)
    x = rng.standard_normal(d, dtype=np.float32)

    def compressing(compressor: Compressor, textbook: Callable[[], object] | None) -> Ways:
        def way(codec: Codec) -> Callable[[], object]:
            out, y = aligned_buffer(codec.payload_bytes), x.copy()
            state = [codec.init()]

            def compress() -> None:
                state[0] = codec.compress(y, codec.settle(state[0], -1), Draw(0, 0, 0, 8), out)

            return compress

        ways: Ways = {name: way(codec) for name, codec in codecs(compressor, layout).items()}
        return ways if textbook is None else {**ways, "textbook": textbook}

    yield "encode", compressing(Sign(), lambda: textbook_encode(x))
    yield "scaled encode", compressing(ScaledSign(), lambda: (np.abs(x).mean(), textbook_encode(x)))
    yield "scaled encode, block = 256", compressing(ScaledSign(256), None)
    yield "stochastic encode", compressing(StochasticSign("max", "independent"), lambda: textbook_stochastic(x, rng))
    residual = x[::-1].copy()
    yield "error feedback", compressing(ErrorFeedback(ScaledSign()), lambda: textbook_feedback(x, residual))

    for n in workers:
        yield f"decode, n = {n}", decoding(ScaledSign(), layout, x, n, textbook=True)
        yield (
            f"decode, correlated+subtractive, n = {n}",
            decoding(StochasticSign("max", "correlated+subtractive"), layout, x, n),
        )
        for block in (256, 64):
            yield f"decode, block = {block}, n = {n}", decoding(ScaledSign(block), layout, x, n)
        if n <= 16:
            yield f"decode, subtractive, n = {n}", decoding(StochasticSign("max", "subtractive"), layout, x, n)
        yield f"vote counts, n = {n}", voting(d, n, rng)

    row, one, total = (
        rng.integers(0, 256, packed_bytes(d), dtype=np.uint8),
        np.ones(1, dtype=np.float32),
        np.zeros(d, dtype=np.float32),
    )
    folding: Ways = {"textbook": lambda: np.add(total, 2.0 * np.unpackbits(row)[:d].astype(np.float32) - 1.0, out=total)}
    for name in WAYS[:2]:
        with kernels(name):
            made_kernels = kernels_for(d)

        def fold(made_kernels=made_kernels) -> None:  # type: ignore[no-untyped-def]
            for where, packed in blocks(d):
                part = total[where]
                made_kernels.fold(row[packed], one, np.array([0, part.size]), part, part)

        folding[name] = fold
    yield "fold one message", folding


def measure(d: int, ways: Ways, rounds: int) -> dict[str, tuple[float, float]]:
    """Return (nanoseconds a coordinate, x) of each way."""
    source, target = np.ones(d, dtype=np.float32), np.empty(d, dtype=np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    ratios: dict[str, list[float]] = {name: [] for name in ways}

    def clock(work: Callable[[], object]) -> float:
        began = time.thread_time()
        work()
        return time.thread_time() - began

    for number in range(rounds + 1):
        copying = clock(lambda: np.copyto(target, source))
        for name, work in ways.items():
            took = clock(work)
            if number:  # the first round warms up
                seconds[name].append(took)
                ratios[name].append(took / copying)
    return {name: (statistics.median(seconds[name]) / d * 1e9, statistics.median(ratios[name])) for name in ways}


def figure(results: list[tuple[int, str, dict[str, tuple[float, float]]]], path: Path) -> None:
    """Draw x by kernel, a panel a size."""
    import matplotlib.pyplot as plt

    sizes = sorted({d for d, _, _ in results})
    width, height = 3.0 + 2.8 * len(sizes), 1.6 + 0.28 * max(sum(d == size for d, _, _ in results) for size in sizes)
    fig, axes = plt.subplots(1, len(sizes), figsize=(width, height), sharey=True, layout="constrained", squeeze=False)
    looks = {"textbook": ("#D55E00", "s"), "numpy": ("#0072B2", "o"), "native": ("#000000", "D")}
    for axis, d in zip(axes[0], sizes, strict=True):
        rows = [(name, found) for size, name, found in results if size == d]
        for way, (colour, marker) in looks.items():
            points = [(found[way][1], place) for place, (_, found) in enumerate(rows) if way in found]
            axis.plot([x for x, _ in points], [place for _, place in points], marker, color=colour, label=way)
        axis.set_yticks(range(len(rows)), [name for name, _ in rows])
        axis.axvline(1.0, color="#999999", linewidth=1)
        axis.set(xscale="log", xlabel="seconds, memcpy = 1", title=f"d = {d:,}")
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_formatter("{x:g}")
    axes[0][0].invert_yaxis()
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    for suffix in (".svg", ".png"):
        fig.savefig(path.with_suffix(suffix), dpi=150)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes", type=lambda text: [int(float(part)) for part in text.split(",")], default=[10**5, 10**6, 25 * 10**6]
    )
    parser.add_argument("--workers", type=lambda text: [int(part) for part in text.split(",")], default=[8, 16, 64])
    parser.add_argument("--folder", type=Path, default=Path("runs/kernels"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=140)
    results = []
    with Progress(console=console) as progress:
        task = progress.add_task(
            "kernels", total=len(arguments.sizes) * (6 + 6 * len(arguments.workers) - sum(n > 16 for n in arguments.workers))
        )
        for d in arguments.sizes:
            for name, ways in questions(d, arguments.workers):
                rounds = 100 if d <= 10**5 else 20 if d <= 10**6 else 5
                results.append((d, name, measure(d, ways, rounds)))
                progress.advance(task)
    table = Table(title="nanoseconds a coordinate (x: memcpy = 1)")
    for column in ("d", "kernel", *WAYS, "gain"):
        table.add_column(column, justify="left" if column == "kernel" else "right")
    with (arguments.folder / "kernels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["d", "kernel", "way", "nanoseconds", "x"])
        for d, name, found in results:
            cells = [f"{found[way][0]:.2f} ({found[way][1]:.2f}x)" if way in found else "" for way in WAYS]
            best = min(nanoseconds for way, (nanoseconds, _) in found.items() if way != "textbook")
            gain = f"{found['textbook'][0] / best:.0f}" if "textbook" in found else ""
            table.add_row(f"{d:,}", name, *cells, gain)
            writer.writerows([d, name, way, *values] for way, values in found.items())
    console.print(table)
    figure(results, arguments.folder / "kernels")


if __name__ == "__main__":
    main()

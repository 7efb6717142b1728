"""How long does a decoding vector take at n = 1,000, the first time and from the cache?

    python benchmarks/decoding.py [--workers 1000] [--missing 100]

One row a code and decoder: seconds to build, milliseconds for a new arrived set (the median of 5), microseconds for one
seen before, decoding error and noise gain of the last. Run it with OMP_NUM_THREADS=1 to compare figures.
"""

from __future__ import annotations

import argparse
import inspect
import os
import statistics
import time
from dataclasses import replace

import numpy as np

from gcdl.codes import CODES, DECODERS, noise_gain


def cases(n: int) -> list[tuple[str, int, int, dict[str, int], str]]:
    """Return (code, n, k, keys, decoder) of each row."""
    return [
        ("uncoded", n, n, {}, "least_squares"),
        ("fractional_repetition", n, n, {"stragglers": 4}, "least_squares"),
        ("cyclic_repetition", n, n, {"stragglers": 4}, "least_squares"),
        ("cyclic_mds", n, n, {"stragglers": 1}, "least_squares"),
        ("sgc", n, n, {"replication": 3}, "sum"),
        ("sgc", n, n, {"replication": 3}, "one_step"),
        ("sgc", n, n, {"replication": 3}, "least_squares"),
        ("sgc", n, n, {"replication": 3}, "mmse"),
        ("bernoulli", n, n, {"replication": 3}, "one_step"),
        ("graph", n, n, {"replication": 3}, "least_squares"),
        ("bibd", 993, 993, {"replication": 32}, "least_squares"),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--missing", type=int, help="how many haven't answered; the code's s, or a tenth, when left out")
    arguments = parser.parse_args()
    print(f"numpy {np.__version__}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}")
    print(
        f"{'code':22} {'decoder':14} {'n':>5} {'missing':>7} {'build s':>8} {'new ms':>8} {'cached us':>9} "
        f"{'error':>9} {'gain':>7}"
    )
    for kind, n, k, params, decoder in cases(arguments.workers):
        rng = np.random.default_rng(0)
        builder = CODES[kind]
        began = time.perf_counter()
        code = builder(n=n, k=k, **({"rng": rng} if "rng" in inspect.signature(builder).parameters else {}), **params)
        built = time.perf_counter() - began
        code = replace(code, decoder=DECODERS[decoder])
        missing = params.get("stragglers", n // 10) if arguments.missing is None else arguments.missing
        first, cached = [], []
        for _ in range(5):
            arrived = np.ones(n, dtype=bool)
            arrived[rng.choice(n, missing, replace=False)] = False
            noise = rng.random(n) / n if DECODERS[decoder].needs_noise else None
            for times in (first, cached):
                began = time.perf_counter()
                a = code.decoding_vector(arrived, noise)
                times.append(time.perf_counter() - began)
        print(
            f"{kind:22} {decoder:14} {n:5} {missing:7} {built:8.2f} {1e3 * statistics.median(first):8.2f} "
            f"{'-' if noise is not None else format(1e6 * statistics.median(cached), '.1f'):>9} "
            f"{code.decoding_error(a):9.1e} {noise_gain(a):7.2f}"
        )


if __name__ == "__main__":
    main()

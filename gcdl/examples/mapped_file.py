"""Logistic regression on a memory-mapped file larger than any worker's share of it: rows are read when they are drawn.

mpirun -n 5 python -m gcdl.examples.mapped_file --rows 1000000      # a file of 260 MB; each worker touches its shards' rows
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import gcdl

FEATURES = 64


def write(path: Path, rows: int) -> None:
    """Write (rows, 65) float32, the last column the label, in blocks: the file never lies in memory whole."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(FEATURES)
    draft = path.with_suffix(f".draft{os.getpid()}")  # every rank may get here first
    table = np.lib.format.open_memmap(draft, "w+", np.float32, (rows, FEATURES + 1))
    for start in range(0, rows, 100_000):
        x = rng.standard_normal((min(100_000, rows - start), FEATURES))
        y = rng.random(len(x)) < 1.0 / (1.0 + np.exp(-x @ truth))
        table[start : start + len(x)] = np.column_stack([x, y])
    table.flush()
    draft.replace(path)


def loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the mean logistic loss."""
    return nn.functional.binary_cross_entropy_with_logits(scores.squeeze(1), labels)


def main(arguments: list[str] | None = None) -> gcdl.Summary | None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--file", type=Path, default=None)
    parser.add_argument("--out", default=None)
    given = parser.parse_args(arguments)
    file = given.file or Path(tempfile.gettempdir()) / f"gcdl-mapped-{given.rows}.npy"
    if not file.exists():
        write(file, given.rows)
    table = np.load(file, mmap_mode="r")  # nothing is read yet
    held_out = len(table) // 20
    x, y = table[:, :FEATURES], table[:, FEATURES]
    problem = gcdl.TorchProblem(
        lambda: nn.Linear(FEATURES, 1),
        loss,
        (x[held_out:], y[held_out:]),
        (x[:held_out], y[:held_out]),
        batch_size=64,
        metrics={"accuracy": lambda scores, labels: ((scores.squeeze(1) > 0) == (labels > 0.5)).float()},
        chunk=4096,
    )
    trainer = gcdl.Trainer(
        problem,
        code={"kind": "sgc", "replication": 2, "p": 0.1},
        compressor="stochastic_sign",
        stragglers={"kind": "bernoulli", "p": 0.1, "seconds": 0.2},
        optimizer={"kind": "sgd", "lr": 1.0},
        out=given.out,
    )
    summary = trainer.run(given.steps)
    if summary is not None:
        print(
            f"test accuracy {summary.final_test_accuracy:.2%}, training loss {summary.final_train_loss:.3f}, in {trainer.out}"
        )
        print(f"parameters: {[tuple(p.shape) for p in torch.load(trainer.out / 'model.pt').values()]}")
    return summary


if __name__ == "__main__":
    main()

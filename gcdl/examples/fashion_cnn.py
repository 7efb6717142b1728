"""A convolutional network on Fashion-MNIST from a plain script: stragglers, dropout, a schedule, early stopping.

apt-get install dataset-fashion-mnist               # or --data FOLDER with the four IDX files
mpirun -n 9 python -m gcdl.examples.fashion_cnn     # 8 workers; without mpirun they are simulated
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

import gcdl
from gcdl.problems.datasets import fashion_mnist

DATA = Path("/usr/share/datasets/fashion-mnist")


def cnn() -> nn.Module:
    """Return two convolutions and a hidden layer; GroupNorm, where one might have taken BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> gcdl.Summary | None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(DATA))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=16, help="per shard and step")
    parser.add_argument("--target", type=float, default=0.9, help="stop at this test accuracy")
    parser.add_argument("--out", default=None)
    given = parser.parse_args(arguments)

    source = fashion_mnist(given.data)
    train, test = source.load_train(), source.load_test()
    scaled = [(part.images[: given.samples, None] / np.float32(255), part.labels[: given.samples]) for part in (train, test)]
    problem = gcdl.TorchProblem(cnn, nn.functional.cross_entropy, scaled[0], scaled[1], batch_size=given.batch, chunk=128)
    trainer = gcdl.Trainer(
        problem,
        code={"kind": "fractional_repetition", "stragglers": 1},
        compressor="stochastic_sign",
        stragglers={"kind": "bernoulli", "p": 0.1, "seconds": 0.5},
        optimizer={
            "kind": "adam",
            "lr": 2e-3,
            "schedule": {"kind": "cosine", "warmup": given.steps // 20, "steps": given.steps},
        },
        run={"eval_every": max(1, given.steps // 8)},
        out=given.out,
    )
    for record in trainer.fit(given.steps):
        if record.test_accuracy is not None:
            print(f"step {record.step + 1}: loss {record.train_loss:.3f}, test accuracy {record.test_accuracy:.2%}", flush=True)
            if record.test_accuracy >= given.target:
                break
    if trainer.is_master:
        model = cnn()
        model.load_state_dict(torch.load(trainer.out / "model.pt"))  # plain torch: gcdl is not needed any more
        print(f"{sum(p.numel() for p in model.parameters())} parameters in {trainer.out / 'model.pt'}")
    return trainer.summary


if __name__ == "__main__":
    main()

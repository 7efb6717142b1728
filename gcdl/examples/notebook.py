"""Cells of a notebook: three codes meet the same stragglers, in one process, on a virtual clock."""

# %% A problem: noisy waves, a small network
import argparse
import tempfile
from pathlib import Path

import numpy as np
from torch import nn

import gcdl

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=200)
steps = parser.parse_args().steps
rng = np.random.default_rng(0)
x = rng.uniform(-3.0, 3.0, (2000, 1))
y = np.sin(3.0 * x) + 0.1 * rng.standard_normal(x.shape)
problem = gcdl.TorchProblem(
    lambda: nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1)), nn.functional.mse_loss, (x, y), (x, y), batch_size=64
)

# %% Each worker is a second late in every fifth step; a code's step waits for as many as it needs
stragglers = {"kind": "bernoulli", "p": 0.2, "seconds": 1.0}
codes: dict[str, dict[str, object]] = {
    "uncoded": {"kind": "uncoded"},
    "fractional repetition": {"kind": "fractional_repetition", "stragglers": 2},
    "sgc": {"kind": "sgc", "replication": 3, "stragglers": 2, "p": 0.2},
}
folder = Path(tempfile.mkdtemp(prefix="notebook-"))
for name, code in codes.items():
    trainer = gcdl.Trainer(
        problem,
        workers=6,
        code=code,
        compressor="stochastic_sign",
        stragglers=stragglers,
        optimizer={"kind": "adam", "lr": 0.01},
        out=folder / name.replace(" ", "-"),
    )
    losses = [record.train_loss for record in trainer.fit(steps)]
    assert trainer.summary is not None
    print(f"{name:22} loss {losses[-1]:.4f}  virtual seconds {trainer.summary.seconds:7.1f}")

# %% Draw them: gcdl plot compares runs
print(f"gcdl plot {folder}/*")

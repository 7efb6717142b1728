"""The first model of README.md: a small network on scikit-learn's digits, one bit per coordinate, one straggler tolerated."""

import argparse

import torch
from sklearn.datasets import load_digits

import gcdl

argparse.ArgumentParser(description=__doc__).parse_args()
x, y = load_digits(return_X_y=True)
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
problem = gcdl.TorchProblem(model, torch.nn.functional.cross_entropy, (x / 16, y))
code = {"kind": "fractional_repetition", "stragglers": 1}
one_bit = {"kind": "stochastic_sign", "scale": "rms", "clip": 1.5, "dither": "correlated+subtractive"}
trainer = gcdl.Trainer(problem, code=code, compressor=one_bit, optimizer={"kind": "adam", "lr": 0.01})
for record in trainer.fit(100):
    print(record.step, record.train_loss)

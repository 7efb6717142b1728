"""The README's ten lines: a module of one's own on scikit-learn's digits, one bit a coordinate, one straggler tolerated."""

import argparse

import torch
from sklearn.datasets import load_digits

import gcdl

argparse.ArgumentParser(description=__doc__).parse_args()
x, y = load_digits(return_X_y=True)
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
problem = gcdl.TorchProblem(model, torch.nn.functional.cross_entropy, (x / 16, y))
code = {"kind": "fractional_repetition", "stragglers": 1}
trainer = gcdl.Trainer(problem, code=code, compressor="stochastic_sign", optimizer={"kind": "adam", "lr": 0.01})
for record in trainer.fit(100):
    print(record.step, record.train_loss)

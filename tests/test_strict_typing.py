"""A user's script passes ``mypy --strict``, and no expression of it that gcdl is the origin of has the type Any."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import numpy as np
import torch
from torch import Tensor, nn

import gcdl


class Net(nn.Module):
    def forward(self, words: Tensor) -> Tensor:
        return words.mean(1, keepdim=True)


def loss(output: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return output.mean() - batch["label"].mean()


def no_decay(name: str) -> dict[str, float]:
    return {"weight_decay": 0.0} if name.endswith("bias") else {}


class Stop(gcdl.Callback):
    def evaluate(self, record: gcdl.StepRecord) -> bool:
        return (record.test_accuracy or 0.0) > 0.9


data = [{"words": torch.zeros(3), "label": torch.zeros(())} for _ in range(8)]
problem = gcdl.TorchProblem(Net, loss, data, data, batch_size=2, autocast="bfloat16", sampling="epoch")
optimizer = gcdl.TorchOptimizer(lambda groups: torch.optim.AdamW(groups, lr=1e-3), groups=no_decay)
trainer = gcdl.Trainer(
    problem, workers=4, code={"kind": "fractional_repetition", "stragglers": 1}, compressor="stochastic_sign",
    optimizer=optimizer, run={"eval_every": 2}, callbacks=[Stop()], loggers=[], out="run",
)
for record in trainer.fit(4):
    print(record.step, record.train_loss, record.test_loss, record.replies, record.samples, record.lr, record.uplink_bytes)
summary = trainer.run(8, resume=True)
if summary is not None:
    print(summary.final_train_loss, summary.model_sha256, summary.stopped, summary.uplink_bytes)
print(trainer.evaluate().test_loss, trainer.model, trainer.is_master, trainer.out, trainer.config.steps)
config = gcdl.load("config.toml")
print(config.seed, config.workers, gcdl.Trainer.of(config))
"""


def mypy(*words: str) -> str:
    """What mypy finds, run where its cache of torch lies."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *words], cwd=ROOT, capture_output=True, text=True, timeout=290, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_script_has_no_any_from_gcdl(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    found = mypy("--disallow-any-expr", "--disallow-any-unimported", "--follow-imports=silent", str(script))
    errors = [line for line in found.splitlines() if ": error:" in line]
    # What may be given is Any where anything will do: it is part of these types. Nothing that comes back is. Net is torch's.
    given = ('(has type "type[Net]")', '(has type "type[Trainer]")', '(has type "CodeTable")')
    assert [line for line in errors if not any(known in line for known in given)] == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_wrong_word_is_found(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("record.train_loss", "record.train_los").replace("workers=4", 'workers="4"'))
    found = mypy("--follow-imports=silent", str(script))
    assert 'has no attribute "train_los"' in found
    assert 'Argument "workers"' in found

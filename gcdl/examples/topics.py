"""Which of Python's help topics a passage is from: samples that are dicts, passages of any length, parameter groups.

A data set of dicts, a collate function that pads, weight decay for weights alone, a cosine schedule, bfloat16, early stopping.
With --resume the run in --out goes on where it ended.

    mpirun -n 5 python -m gcdl.examples.topics --out runs/topics    # 4 workers; without mpirun they are simulated
"""

from __future__ import annotations

import argparse
import re
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

import gcdl

WORDS, CLASSES, LENGTH = 4096, 6, 30


def passages() -> list[dict[str, Any]]:
    """Return passages of 10 to 30 words as dicts: ``words``, the words' numbers, and ``label``, the number of their topic."""
    found = []
    for label, topic in enumerate(sorted(topics, key=lambda name: (-len(topics[name]), name))[:CLASSES]):
        text = re.findall(r"\w+", topics[topic].lower())
        numbers = [1 + sum(31**i * ord(letter) for i, letter in enumerate(word)) % (WORDS - 1) for word in text]
        for start in range(0, len(numbers) - LENGTH, LENGTH):
            length = 10 + (start // LENGTH) % 21
            found.append({"words": torch.tensor(numbers[start : start + length]), "label": label})
    return found


def padded(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Return passages as a batch, padded with zeros to the longest."""
    words = pad_sequence([sample["words"] for sample in samples], batch_first=True)
    return {"words": words, "label": torch.tensor([sample["label"] for sample in samples])}


class Reader(nn.Module):
    """The mean embedding of a passage's words, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, 64, padding_idx=0)
        self.layers = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, CLASSES))

    def forward(self, words: Tensor) -> Tensor:
        """Return the scores of the topics, (passages, topics)."""
        present = (words > 0).unsqueeze(2)
        scores: Tensor = self.layers((self.table(words) * present).sum(1) / present.sum(1))
        return scores


def loss(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean cross-entropy."""
    return nn.functional.cross_entropy(scores, batch["label"])


def accuracy(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the share of passages whose topic has the highest score."""
    return (scores.argmax(1) == batch["label"]).float().mean()


def no_decay(name: str) -> dict[str, float]:
    """Say what is different for a parameter: biases and norms are not decayed, the embedding has a rate of its own."""
    if name.startswith("table."):
        return {"lr": 1e-2}
    return {"weight_decay": 0.0} if name.endswith("bias") or name.startswith("layers.0.") else {}


class StopAt(gcdl.Callback):
    """Prints evaluations, and stops the run at a test accuracy."""

    def __init__(self, target: float) -> None:
        self.target = target

    def evaluate(self, record: gcdl.StepRecord) -> bool:
        """Return whether the target is reached."""
        reached = record.test_accuracy or 0.0
        print(f"step {record.step + 1}: loss {record.train_loss:.3f}, test accuracy {reached:.2%}", flush=True)
        return reached >= self.target


def main(arguments: list[str] | None = None) -> gcdl.Summary | None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--target", type=float, default=0.65, help="stop at this test accuracy")
    parser.add_argument("--num-workers", type=int, default=0, help="processes of each rank that draw batches ahead")
    parser.add_argument("--out", default=None)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args(arguments)

    data = passages()
    train, test = [one for i, one in enumerate(data) if i % 8], data[::8]
    problem = gcdl.TorchProblem(
        Reader, loss, train, test, batch_size=32, metrics={"accuracy": accuracy}, collate_fn=padded, sampling="epoch",
        autocast="bfloat16", num_workers=given.num_workers,
    )  # fmt: skip
    trainer = gcdl.Trainer(
        problem,
        code={"kind": "fractional_repetition", "stragglers": 1},
        compressor="stochastic_sign",
        optimizer=gcdl.TorchOptimizer(
            lambda groups: torch.optim.AdamW(groups, lr=4e-3, weight_decay=0.1),
            schedule=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, given.steps),
            groups=no_decay,
        ),
        run={"eval_every": max(1, given.steps // 10)},
        callbacks=[StopAt(given.target)],
        out=given.out,
    )
    return trainer.run(given.steps, resume=given.resume)


if __name__ == "__main__":
    main()

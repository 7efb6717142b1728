"""A character-level Transformer on the documentation that ships with Python: attention, tied embeddings, dropout, one bit.

An embedding's gradient is zero for all characters that a minibatch has not got. The stochastic sign has mean zero there, but
the variance M^2, M the tensor's scale. A scale for each 64 coordinates keeps it small where nothing happens, and costs 4 bytes:
the uplink is a twentieth of float32's. One bit wants, and stands, a higher learning rate; so tune both on one grid.

    python -m gcdl.examples.char_gpt --compare                      # float32 and one bit, the same steps (6 minutes)
    python -m gcdl.examples.char_gpt --compare --lr 2e-3 4e-3 8e-3  # and the best rate of each (20 minutes)
    mpirun -n 5 python -m gcdl.examples.char_gpt                    # one bit, over MPI
"""

from __future__ import annotations

import argparse
import math
import tempfile
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import gcdl

METHODS: dict[str, str | dict[str, object]] = {
    "float32": "identity",
    "one bit": {"kind": "stochastic_sign", "block": 64},
}


class GPT(nn.Module):
    """A decoder-only Transformer (Radford et al. 2018), pre-norm; the output layer is the embedding's transpose."""

    def __init__(self, characters: int, length: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(characters, width), nn.Embedding(length, width)
        block = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, characters, bias=False)
        self.head.weight = self.token.weight
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.place.weight, std=0.02)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of what follows each token: (samples, length, characters)."""
        length = tokens.shape[1]
        x = self.token(tokens) + self.place.weight[:length]
        mask = self.get_buffer("mask")[:length, :length]
        scores: Tensor = self.head(self.blocks(x, mask=mask, is_causal=True))
        return scores


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Stretches of a text, and the same one character on."""

    def __init__(self, text: Tensor, length: int) -> None:
        self.text, self.length = text, length

    def __len__(self) -> int:
        return (len(self.text) - 1) // self.length

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        window = self.text[i * self.length : (i + 1) * self.length + 1]
        return window[:-1], window[1:]


def corpus(characters: int | None = None) -> tuple[Tensor, str]:
    """Return Python's help topics as numbers, and the characters that they stand for."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))[:characters]
    alphabet = "".join(sorted(set(text)))
    places = {character: i for i, character in enumerate(alphabet)}
    return torch.tensor([places[character] for character in text]), alphabet


def loss(scores: Tensor, following: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of a character, in nats."""
    return nn.functional.cross_entropy(scores.flatten(0, 1), following.flatten())


def problem(
    width: int = 96, layers: int = 3, length: int = 64, batch: int = 8, dropout: float = 0.0, characters: int | None = None
) -> gcdl.TorchProblem:
    """Return the problem: the last tenth of the text is held out."""
    text, alphabet = corpus(characters)
    held_out = len(text) // 10
    return gcdl.TorchProblem(
        lambda: GPT(len(alphabet), length, width, layers, dropout),
        loss,
        Windows(text[:-held_out], length),
        Windows(text[-held_out:], length),
        batch_size=batch,
        chunk=64,
    )


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train; return the validation loss of each method, at its best rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--length", type=int, default=64, help="characters in a window")
    parser.add_argument("--batch", type=int, default=8, help="windows per shard and step")
    parser.add_argument("--characters", type=int, default=None, help="of the text; all when left out")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--lr", type=float, nargs="+", default=[4e-3], help="learning rates; the best of each method counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="float32 too")
    parser.add_argument("--out", type=Path, default=None, help="a folder for the runs")
    given = parser.parse_args(arguments)

    text_problem = problem(given.width, given.layers, given.length, given.batch, given.dropout, given.characters)
    out = given.out or Path(tempfile.mkdtemp(prefix="char-gpt-"))
    found: dict[str, float] = {}
    for name, lr in product(METHODS if given.compare else ["one bit"], given.lr):
        trainer = gcdl.Trainer(
            text_problem,
            workers=given.workers,
            code={"kind": "fractional_repetition", "stragglers": 1},
            compressor=METHODS[name],
            stragglers={"kind": "exactly", "count": 1, "seconds": 1.0},
            optimizer={
                "kind": "adamw", "lr": lr, "clip_norm": 1.0,
                "schedule": {"kind": "cosine", "warmup": max(1, given.steps // 20)},
            },
            seed=given.seed,
            run={"eval_every": max(1, given.steps // 10), "checkpoint_every": 0},
            out=out / f"{name.replace(' ', '-')}-{lr:g}",
        )  # fmt: skip
        validation = math.inf
        for record in trainer.fit(given.steps):
            if record.test_loss is not None:
                validation = record.test_loss
                print(f"{name}, lr {lr:g}: step {record.step + 1}, loss {record.train_loss:.4f}, validation {validation:.4f}")
        if trainer.summary is not None:
            print(f"{name}, lr {lr:g}: {trainer.summary.uplink_bytes / 1e6:.1f} MB up; runs in {out}", flush=True)
            found[name] = min(found.get(name, math.inf), validation)
    if len(found) == 2:
        more = 100.0 * (found["one bit"] / found["float32"] - 1.0)
        print(f"validation loss: one bit {found['one bit']:.4f}, float32 {found['float32']:.4f} ({more:+.1f} %)")
    return found


if __name__ == "__main__":
    main()

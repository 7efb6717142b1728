"""Models for images, as plain ``torch.nn`` modules. None has layers that mix the samples of a batch, or draw numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from gcdl.errors import ParameterError

ModelBuilder = Callable[[tuple[int, int], int, Sequence[int]], nn.Module]


def linear(shape: tuple[int, int], classes: int, hidden: Sequence[int]) -> nn.Module:
    """Return multinomial logistic regression; ``hidden`` is not used."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1], classes))


def mlp(shape: tuple[int, int], classes: int, hidden: Sequence[int]) -> nn.Module:
    """Return a ReLU network with hidden layers of these widths."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = shape[0] * shape[1]
    for following in hidden:
        layers += [nn.Linear(width, following), nn.ReLU()]
        width = following
    return nn.Sequential(*layers, nn.Linear(width, classes))


def cnn(shape: tuple[int, int], classes: int, hidden: Sequence[int]) -> nn.Module:
    """Return two 3 x 3 convolutions (16 and 32 channels), each halved by pooling, then an MLP with ``hidden`` widths."""
    layers: list[nn.Module] = [
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
    ]  # fmt: skip
    width = 32 * (shape[0] // 4) * (shape[1] // 4)
    for following in hidden:
        layers += [nn.Linear(width, following), nn.ReLU()]
        width = following
    return nn.Sequential(*layers, nn.Linear(width, classes))


MODELS: dict[str, ModelBuilder] = {"linear": linear, "mlp": mlp, "cnn": cnn}

CHUNK: dict[str, int] = {"linear": 1024, "mlp": 1024, "cnn": 128}
"""Samples in one pass. A larger pass is not faster, and a superseded worker would notice later."""


def build(name: str, shape: tuple[int, int], classes: int, hidden: Sequence[int], seed: int) -> nn.Module:
    """Return the named model, initialised from ``seed`` alone; torch's global generator is left as it was.

    Raises
    ------
    ParameterError : there is not enough memory for it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return MODELS[name](shape, classes, hidden)
        except RuntimeError as error:  # torch has no MemoryError
            if "memory" not in str(error) and "Storage size" not in str(error):
                raise
            raise ParameterError(f"problem.hidden: {list(hidden)}: the model needs more memory than there is") from None

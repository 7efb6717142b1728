"""The global random generators of torch, numpy and Python, seeded within a block."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from gcdl.types import Stream, seed_words

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@contextmanager
def seeded(seed: int, stream: Stream, *key: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python by the arguments alone, in this block; then put them back.

    torch has one for the processors, and one for each GPU. The GPU's is seeded too if ``device`` is a GPU.
    """
    import torch

    words = seed_words(seed, stream, *key)
    held = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's transforms may draw from it
    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
        torch.manual_seed(words[0])
        random.seed(words[1])
        np.random.seed(words[1] & 0xFFFFFFFF)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(held[0])
            np.random.set_state(held[1])  # noqa: NPY002


def generator_state(device: torch.device) -> Tensor:
    """Return the state of the torch generators that a model on ``device`` may draw from, (bytes,) uint8."""
    import torch

    state = torch.get_rng_state()
    return torch.cat([state, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else state

"""What all ranks must agree on in a problem of the user's own: the model as it begins, and the samples."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gcdl.problems.samples import Source
from gcdl.problems.seeding import seeded
from gcdl.types import Stream, Vector

if TYPE_CHECKING:
    from torch import nn


def fingerprint(module: nn.Module, start: Vector, sources: Sequence[Source], seed: int) -> str:
    """Return a digest, 16 characters, of a model and of the first, a middle and the last sample of each source.

    Parameters
    ----------
    module : the model.
    start : its parameters as they were given, (d,).
    sources : the training set, and the test set if there is one.
    seed : the run's; samples may be drawn.
    """
    import torch

    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        if value.numel():
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    digest.update(start.tobytes())
    for source in sources:
        shard = source.take(np.array(sorted({0, source.size // 2, source.size - 1})))
        with seeded(seed, Stream.LAYERS):
            digest.update(repr((source.size, _plain(shard.batch(slice(None))))).encode())
    return digest.hexdigest()[:16]


def state_as_text(module: nn.Module) -> str:
    """Return a module's state dict as text."""
    import torch

    file = io.BytesIO()
    torch.save({name: value.cpu() for name, value in module.state_dict().items()}, file)
    return base64.b64encode(file.getbuffer()).decode()


def load_state(module: nn.Module, text: str) -> None:
    """Load a state dict that :func:`state_as_text` returned."""
    import torch

    module.load_state_dict(torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True))


def _plain(tree: Any) -> Any:
    """Return nested tensors as nested digests; text and numbers as they are."""
    if isinstance(tree, dict):
        return {name: _plain(part) for name, part in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(_plain(part) for part in tree)
    if hasattr(tree, "contiguous"):
        return hashlib.sha256(tree.contiguous().numpy().tobytes()).hexdigest()
    return tree if isinstance(tree, str | bytes | int | float) else type(tree).__name__

"""The outputs of a trained model for inputs that have no targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gcdl.errors import ParameterError
from gcdl.problems.nested import join, mapped, moved
from gcdl.problems.pass_context import PassContext
from gcdl.problems.samples import Batch, Collate, Rows, source_of


def predict(context: PassContext, data: Any, collate: Collate | None = None) -> Any:
    """Return the model's outputs, joined, on the CPU; passes of ``context.chunk`` samples, in evaluation mode.

    Parameters
    ----------
    context : the model as it is.
    data : an array or tensor with a row a sample, a tuple of them, or a dict of them, given by name; or a map-style Dataset
        or list of samples as those of a training set, whose targets are not looked at.
    collate : makes a batch of a list of samples; None: as a DataLoader does.

    Raises
    ------
    ParameterError : ``data`` is none of these, or its columns differ in length.
    """
    import torch

    inputs = _Inputs(data) if _has_columns(data) else None
    shard = source_of(data, "data", collate).whole() if inputs is None else inputs
    model = context.module.module
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), context.seeded():
            parts = [
                moved(
                    context.call(*context.prepared(shard.batch(np.arange(start, min(start + context.chunk, shard.size))))),
                    "cpu",
                )
                for start in range(0, shard.size, context.chunk)
            ]
    finally:
        model.train(was_training)
    return join(parts)


def _has_columns(data: Any) -> bool:
    columns = list(data.values()) if isinstance(data, Mapping) else data if isinstance(data, tuple) else [data]
    return bool(columns) and all(hasattr(column, "shape") for column in columns)


class _Inputs:
    """Inputs in columns, without targets."""

    def __init__(self, data: Any) -> None:
        self._inputs = (dict(data),) if isinstance(data, Mapping) else data if isinstance(data, tuple) else (data,)
        sizes: list[int] = []
        mapped(lambda column: sizes.append(len(column)), self._inputs)
        if len(set(sizes)) != 1 or sizes[0] < 1:
            raise ParameterError(f"data: columns of {', '.join(map(str, sizes))} samples; all need the same number, 1 at least")
        self.size = sizes[0]

    def batch(self, rows: Rows) -> Batch:
        """Return these rows, and no target."""
        import torch

        def taken(column: Any) -> Any:
            part = column[rows]
            return part if isinstance(part, torch.Tensor) else torch.from_numpy(np.array(part))

        return (*mapped(taken, self._inputs), None)

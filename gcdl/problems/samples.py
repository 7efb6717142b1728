"""Samples from arrays, memory-mapped files and ``torch.utils.data`` data sets, so that a worker touches its shards only.

A sample is a tuple: inputs, and a target last; or a dict. Columns of arrays hold one row a sample.

An array in memory is copied, the shard's rows only. Of a memory-mapped file only the rows of a minibatch are read, when it
is drawn. A map-style Dataset is asked for the samples of a minibatch, so its transforms run each time, under the seed of
(run, shard, step).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gcdl.errors import ParameterError
from gcdl.types import IntVector

Batch = tuple[Any, ...]
"""Collated samples: (inputs, ..., target), or (sample,) alone where a sample is a dict.

Each is a tensor, or nested tuples and dicts of tensors, the first dimension of each the samples'.
"""
Collate = Callable[[list[Any]], Any]
"""A list of samples -> a batch, as of a ``torch.utils.data.DataLoader``."""
Rows = IntVector | slice
_WANTED = "take a tuple of arrays (inputs, targets), or a map-style Dataset"


class Shard(Protocol):
    """Some of the samples."""

    @property
    def size(self) -> int:
        """How many."""
        ...

    def batch(self, rows: Rows) -> Batch:
        """Return the samples at these places of the shard."""
        ...


class Source(Protocol):
    """All samples; cheap to have."""

    @property
    def size(self) -> int:
        """How many."""
        ...

    def take(self, indices: IntVector) -> Shard:
        """Return these samples and keep no others."""
        ...

    def whole(self) -> Shard:
        """Return all samples, without a copy."""
        ...


def source_of(data: Any, name: str, collate: Collate | None = None) -> Source:
    """Return samples from a tuple of arrays or tensors, or a map-style Dataset.

    Parameters
    ----------
    data : the samples.
    name : says which data, in messages.
    collate : makes a batch of samples; None: as a DataLoader does.

    Raises
    ------
    ParameterError : ``data`` is neither, empty, or its columns differ in length.
    """
    from torch.utils.data import IterableDataset, TensorDataset

    by_number = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    if isinstance(data, IterableDataset) or (hasattr(data, "__iter__") and not by_number):
        raise ParameterError(
            f"{name}: a {type(data).__name__} has no sample numbers, so it cannot be cut into shards; take list({name}) if it "
            "fits into memory, or a Dataset with __len__ and __getitem__"
        )
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, tuple | list) and all(hasattr(column, "shape") for column in data):
        return _Arrays.of(data, name, collate)
    if isinstance(data, Mapping):
        keys = ", ".join(repr(key) for key in list(data)[:5])
        raise ParameterError(f"{name}: a dict of {keys}; {_WANTED}")
    if isinstance(data, tuple) and any(isinstance(column, list) or hasattr(column, "shape") for column in data):
        kinds = ", ".join(type(column).__name__ for column in data)
        raise ParameterError(f"{name}: a tuple of {kinds}; {_WANTED} (numpy.asarray makes an array of a list)")
    if by_number and not isinstance(data, str | bytes):
        if len(data) < 1:
            raise ParameterError(f"{name}: no samples")
        return _Map(data, len(data), collate)
    raise ParameterError(f"{name}: a {type(data).__name__}; {_WANTED}")


@dataclass(frozen=True)
class _Arrays:
    """Columns of equal length."""

    columns: tuple[Any, ...]
    size: int
    collate: Collate | None

    @classmethod
    def of(cls, columns: Iterable[Any], name: str, collate: Collate | None) -> _Arrays:
        columns = tuple(_as_array(column) for column in columns)
        sizes = [column.shape[0] if column.ndim else 0 for column in columns]
        if len(columns) < 2:
            raise ParameterError(f"{name}: {len(columns)} column; a sample needs an input and a target: (x, y)")
        if len(set(sizes)) > 1 or sizes[0] < 1:
            raise ParameterError(
                f"{name}: columns of {', '.join(map(str, sizes))} samples; all need the same number, 1 at least"
            )
        return cls(columns, sizes[0], collate)

    def take(self, indices: IntVector) -> Shard:
        return _Columns(
            tuple(_Lazy(c, indices) if _mapped(c) else c[indices] for c in self.columns), len(indices), self.collate
        )

    def whole(self) -> Shard:
        return _Columns(self.columns, self.size, self.collate)


@dataclass(frozen=True)
class _Columns:
    columns: tuple[Any, ...]
    size: int
    collate: Collate | None

    def batch(self, rows: Rows) -> Batch:
        import torch

        columns = tuple(torch.from_numpy(np.ascontiguousarray(column[rows])) for column in self.columns)
        return columns if self.collate is None else _collated(list(zip(*columns, strict=True)), self.collate)


@dataclass(frozen=True)
class _Lazy:
    """Rows of a file, read when they are asked for."""

    column: Any
    indices: IntVector

    def __getitem__(self, rows: Rows) -> Any:
        return self.column[self.indices[rows]]


@dataclass(frozen=True)
class _Map:
    """A map-style Dataset."""

    dataset: Any
    size: int
    collate: Collate | None

    def take(self, indices: IntVector) -> Shard:
        return _Picked(self.dataset, indices, len(indices), self.collate)

    def whole(self) -> Shard:
        return self.take(np.arange(self.size))


@dataclass(frozen=True)
class _Picked:
    dataset: Any
    indices: IntVector
    size: int
    collate: Collate | None

    def batch(self, rows: Rows) -> Batch:
        numbers = self.indices[rows].tolist()
        if hasattr(self.dataset, "__getitems__"):  # several at once, as a DataLoader asks
            return _collated(self.dataset.__getitems__(numbers), self.collate)
        return _collated([self.dataset[number] for number in numbers], self.collate)


def _collated(samples: list[Any], collate: Collate | None) -> Batch:
    """Return samples as a batch.

    Raises
    ------
    ParameterError : a batch is neither a dict, nor inputs and a target.
    """
    from torch.utils.data import default_collate

    batch = (collate or default_collate)(samples)
    if isinstance(batch, Mapping):
        return (dict(batch),)
    if not isinstance(batch, Sequence) or len(batch) < 2:
        raise ParameterError(
            f"a sample of the data set is a {type(samples[0]).__name__}, a batch a {type(batch).__name__}; "
            "it must be (inputs, ..., target), or a dict"
        )
    return tuple(batch)


def _as_array(column: Any) -> Any:
    """Return a numpy array; of what is one already, the same, a memory-mapped one too."""
    return column if isinstance(column, np.ndarray) else np.asarray(column)


def _mapped(column: Any) -> bool:
    """Say whether an array lies in a memory-mapped file; a view of one does too."""
    while isinstance(column, np.ndarray):
        if isinstance(column, np.memmap):
            return True
        column = column.base
    return False

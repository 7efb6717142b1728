"""Batches and outputs: tensors, or nested tuples, lists and dicts of them, the first dimension of each the samples'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def is_batch(tree: Any, samples: int) -> bool:
    """Return whether :func:`cut` and :func:`join` understand this: plain tuples, lists and dicts of tensors with these rows.

    A subclass may carry more than its entries; a number for all samples, as a loss is, cannot be cut.
    """
    if type(tree) is dict:
        return all(is_batch(part, samples) for part in tree.values())
    if type(tree) in (tuple, list):
        return all(is_batch(part, samples) for part in tree)
    return hasattr(tree, "new_empty") and tree.ndim > 0 and tree.shape[0] == samples


def can_join(batches: Sequence[Any], sizes: Sequence[int]) -> bool:
    """Return whether batches of these numbers of samples can be one: their tensors differ in the number of rows alone."""
    shapes = [mapped(_shape, batch) for batch in batches if all(map(is_batch, batches, sizes))]
    return bool(shapes) and all(shape == shapes[0] for shape in shapes)


def join(batches: Sequence[Any]) -> Any:
    """Return several batches as one: of each tensor in nested tuples and dicts, all rows."""
    import torch

    first = batches[0]
    if len(batches) == 1:
        return first
    if isinstance(first, dict):
        return {name: join([batch[name] for batch in batches]) for name in first}
    if isinstance(first, tuple | list):
        return tuple(join(parts) for parts in zip(*batches, strict=True))
    return torch.cat(list(batches))


def cut(tree: Any, rows: slice) -> Any:
    """Return these samples of an output: of each tensor in nested tuples, lists and dicts."""
    return mapped(lambda tensor: tensor[rows], tree)


def cast(tree: Any, floating: Any, device: Any, *, target: bool = False) -> Any:
    """Return a batch on a device, floating-point tensors as type ``floating``; what is no tensor stays.

    ``target``: integers become int64, as losses want them.
    """

    def each(leaf: Any) -> Any:
        if not hasattr(leaf, "is_floating_point"):
            return leaf
        tensor: Tensor = leaf.to(device)
        if tensor.is_floating_point():
            return tensor.to(floating)
        whole = not tensor.is_complex() and tensor.dtype.itemsize < 8 and str(tensor.dtype) != "torch.bool"
        return tensor.long() if target and whole else tensor

    return mapped(each, tree)


def moved(tree: Any, device: Any) -> Any:
    """Return a batch, or an output, on a device; what is no tensor stays."""
    return mapped(lambda leaf: leaf.to(device) if hasattr(leaf, "to") else leaf, tree)


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return nested tuples and dicts, their types kept, with ``function`` of each leaf; lists become tuples."""
    if type(tree) is dict:
        return {name: mapped(function, part) for name, part in tree.items()}
    if isinstance(tree, dict):
        made = copy(tree)
        for name, part in tree.items():
            made[name] = mapped(function, part)
        return made
    if isinstance(tree, tuple | list):
        parts = [mapped(function, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return function(tree)


def _shape(tensor: Tensor) -> tuple[tuple[int, ...], Any]:
    """Return all of a tensor's shape but the number of samples, and its type."""
    return tuple(tensor.shape[1:]), tensor.dtype

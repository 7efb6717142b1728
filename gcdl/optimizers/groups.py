"""Parameter groups of a flat vector: slices that the optimizer treats alike, by the names of the tensors in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gcdl.errors import ParameterError
from gcdl.types import Layout

Grouping = Callable[[str], Mapping[str, Any]]
"""A parameter's name -> what is different for it: ``{"weight_decay": 0.0}``; {}: nothing."""


@dataclass(frozen=True)
class Group:
    """``slices`` of the vector, in their order, and the ``options`` that torch's optimizer is given for them."""

    slices: tuple[slice, ...]
    options: Mapping[str, Any]


def groups_of(layout: Layout, grouping: Grouping) -> tuple[Group, ...]:
    """Return the groups of a model: tensors of equal options together, neighbours among them as one slice.

    The group without options of its own is the first, then in the order of their first tensor.

    Raises
    ------
    ParameterError : ``grouping`` returns no dict of options.
    """
    found: list[tuple[dict[str, Any], list[slice]]] = [({}, [])]
    for name, where in zip(layout.names, layout.slices, strict=True):
        options = grouping(name)
        if not isinstance(options, Mapping) or "params" in options:
            raise ParameterError(f"groups: {options!r} for parameter {name!r}; take a dict of options, {{}} for none")
        slices = next((slices for known, slices in found if known == options), None)
        if slices is None:
            slices = []
            found.append((dict(options), slices))
        if slices and slices[-1].stop == where.start:
            slices[-1] = slice(slices[-1].start, where.stop)
        else:
            slices.append(where)
    return tuple(Group(tuple(slices), options) for options, slices in found if slices)

"""The parts of a run that was resumed with another number of workers, another code, compressor or downlink.

``manifest.json`` has an entry for each time a run was resumed. Where one of these tables changed, the entry has ``config``: the
resolved config before. ``config.toml`` is that of the last part.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gcdl.config import RECODED


class Part(NamedTuple):
    """The steps from ``first`` on, up to the next part, and the config that they had."""

    first: int
    config_toml: str


def changed(before: str, after: str) -> list[str]:
    """Return which tables of RECODED differ between two resolved configs."""
    was, now = tomllib.loads(before), tomllib.loads(after)
    return [name for name in RECODED if was.get(name) != now.get(name)]


def parts_of(resumed: Sequence[Mapping[str, Any]], config_toml: str) -> list[Part]:
    """Return the parts of a run in their order; ``resumed``: the entries of its manifest.

    >>> [part.first for part in parts_of([{"step": 8, "config": "a = 1"}, {"step": 9}], "a = 2")]
    [0, 8]
    """
    configs = [config_toml]
    for entry in reversed(resumed):
        configs.append(str(entry.get("config", configs[-1])))
    configs.reverse()
    parts = [Part(0, configs[0])]
    for entry, config in zip(resumed, configs[1:], strict=True):
        step = int(entry["step"])
        parts = [part for part in parts if part.first < step]
        if not parts or parts[-1].config_toml != config:
            parts.append(Part(step, config))
    return parts


def part_at(parts: Sequence[Part], step: int) -> Part:
    """Return the part that a step belongs to."""
    return next(part for part in reversed(parts) if part.first <= step)

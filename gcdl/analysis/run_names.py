"""Telling runs apart: a short name for each, and the config keys in which they differ."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def run_names(paths: Sequence[Path]) -> list[str]:
    """Return a short name of each run: its folder's, with its parent's where names are the same, and a number where needed."""
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = ["/".join(path.resolve().parts[-2:]) for path in paths]
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def config_differences(configs: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the dotted keys in which configs (TOML) differ, with the value in each; "" where it lacks the key."""
    flat = [_flat(tomllib.loads(config)) for config in configs]
    keys = sorted({key for one in flat for key in one})
    return [(key, values) for key in keys if len(set(values := [str(one.get(key, "")) for one in flat])) > 1]


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat

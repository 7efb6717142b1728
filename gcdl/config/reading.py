"""From TOML text and ``key=value`` overrides to a checked :class:`gcdl.Config`: the only reader of strings."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import create_model

from gcdl.config.schema import Table, validate
from gcdl.config.values import RECODED, RESUMED, SECTIONS, Config, RunOptions, SimulateOptions
from gcdl.errors import ConfigError
from gcdl.types import Count, Natural, Steps

_TopLevel = create_model(
    "_TopLevel",
    __base__=Table,
    seed=(Natural, 0),
    workers=(Count | None, None),
    steps=(Steps, 300),
    run=(RunOptions, RunOptions()),
    simulate=(SimulateOptions, SimulateOptions()),
    **{name: (dict[str, Any], {}) for name in SECTIONS},  # type: ignore[call-overload]
)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file, apply overrides, check everything that can be checked without data.

    Raises
    ------
    ConfigError : no such file, no TOML, an unknown key, a wrong value.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse(text, overrides, name=str(path))


def parse_resumed(text: str, overrides: Sequence[str]) -> Config:
    """As :func:`parse`, for a run that is resumed: only what does not change the problem may be overridden.

    Whether scales are agreed on is asked anew where the downlink is another.

    Raises
    ------
    ConfigError : an override of another key.
    """
    tables = read_toml(text, "config.toml")
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key.partition(".")[0] not in RESUMED + RECODED:
            raise ConfigError(f"{key}: cannot change when a run is resumed; {', '.join(RESUMED + RECODED)} can")
    given = nested(overrides)
    if "downlink" in given and isinstance(tables.get("compressor"), dict):
        tables["compressor"].pop("agreed", None)
    return of_tables(laid_over(tables, given))


def parse(text: str, overrides: Sequence[str] = (), *, name: str = "config") -> Config:
    """As :func:`load`, from TOML text; ``name`` stands for the file in messages."""
    return of_tables(laid_over(read_toml(text, name), nested(overrides)))


def read_toml(text: str, name: str) -> dict[str, Any]:
    """Return the tables of TOML text.

    Raises
    ------
    ConfigError : it is no TOML; the message begins with ``name``.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so is a number of 5,000 digits
        raise ConfigError(f"{name}: not TOML: {error}") from None


def of_tables(given: Mapping[str, Any]) -> Config:
    """Check a config's tables.

    Raises
    ------
    ConfigError : an unknown key, a wrong value.
    """
    tables = dict(given)
    options = {name: tables.pop(name, {}) for name in ("run", "simulate")}
    top = validate(_TopLevel, tables, "")
    choices = {}
    for section in SECTIONS.values():
        choices[section.name] = section.check(getattr(top, section.name))
    for name, table in options.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{name}: {table!r}: must be a table")
    run, simulate = validate(RunOptions, options["run"], "run"), validate(SimulateOptions, options["simulate"], "simulate")
    return Config(top.seed, top.workers, top.steps, run, simulate, choices)


def nested(overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``a.b=1`` as {"a": {"b": 1}}. Values are TOML; what is not is a string."""
    found: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts) or len(parts) > 2:
            raise ConfigError(f"{override!r}: an override looks like key=value or table.key=value")
        if "\n" in value or not _encodable(override):
            raise ConfigError(f"{override!r}: an override is one line of text")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except (ValueError, RecursionError):
            parsed = value.strip()
        if len(parts) == 1:
            found[parts[0]] = parsed
            continue
        table = found.setdefault(parts[0], {})
        if not isinstance(table, dict):
            raise ConfigError(f"{override!r}: {parts[0]} was given a value before")
        table[parts[1]] = parsed
    return found


def _encodable(text: str) -> bool:
    """Say whether text can be written to a file: a command line may hold bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def laid_over(tables: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's tables with others laid over them. Another ``kind`` drops the keys that only the old kind has."""
    laid = dict(tables)
    for name, given in overrides.items():
        old = laid.get(name)
        if not isinstance(given, dict) or not isinstance(old, dict):
            laid[name] = given
            continue
        section = SECTIONS.get(name)
        if section is not None and "kind" in given:
            outdated = set(section.keys(str(old.get("kind", section.default)))) - set(section.keys(str(given["kind"])))
            old = {key: value for key, value in old.items() if key not in outdated}
        laid[name] = {**old, **given}
    return laid

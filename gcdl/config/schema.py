"""Checks tables of a config against the signatures of the plug-ins: the keys of each ``kind``, their types and bounds.

A plug-in's parameters are its config keys, except those the run supplies (:data:`CONTEXT`). So a new code or compressor
needs no line here. pydantic checks; this module turns its findings into messages that begin with the key's dotted path, and
that name the nearest valid key.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from gcdl.errors import ConfigError

CONTEXT = frozenset({"self", "n", "k", "seed", "rng", "code"})
"""Parameters that the run supplies; they are no keys."""


class Table(BaseModel):
    """Base of all tables: unknown keys are errors, and values are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


@dataclass(frozen=True, eq=False)
class Section:
    """A table with a ``kind``.

    Attributes
    ----------
    name : the table's name.
    kinds : the plug-in of each kind.
    default : the kind when none is given; None: one must be.
    extra : keys that every kind has, with type and default.
    parts : (key, section): a key whose value is a list of tables, each checked as one of that section.
    inner : (key, section): a key of ``extra`` whose value is a table of that section.
    """

    name: str
    kinds: Mapping[str, Callable[..., Any]]
    default: str | None = None
    extra: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    parts: tuple[str, Section] | None = None
    inner: tuple[str, Section] | None = None

    def keys(self, kind: str) -> list[str]:
        """Return the keys of a kind, without ``kind`` itself; of an unknown kind, those of ``extra``."""
        return list(_model(self, kind).model_fields) if kind in self.kinds else list(self.extra)

    def check(self, given: Mapping[str, Any], name: str = "") -> Choice:
        """Return a table's kind and all its values. ``name`` replaces the section's in messages.

        Raises
        ------
        ConfigError : unknown kind or key, or a wrong value.
        """
        values = dict(given)
        kind = values.pop("kind", self.default)
        name = name or self.name
        path = f"{name}.kind"
        if kind is None:
            raise ConfigError(f"{path}: missing; choose one of {', '.join(self.kinds)}")
        if not isinstance(kind, str) or kind not in self.kinds:
            raise ConfigError(f"{path}: unknown kind {kind!r}{_nearest(str(kind), self.kinds)}")
        checked = validate(_model(self, kind), values, name, f" of {name}.kind = {kind!r}")
        found = {key: getattr(checked, key) for key in type(checked).model_fields}
        if self.parts is not None and self.parts[0] in found:
            key, section = self.parts
            found[key] = tuple(section.check(part, f"{name}.{key}.{i}") for i, part in enumerate(found[key]))
        if self.inner is not None and found[self.inner[0]] is not None:
            key, section = self.inner
            found[key] = section.check(found[key], f"{name}.{key}")
        return Choice(self, kind, found, name)


@dataclass(frozen=True)
class Choice:
    """A checked table: the kind that was chosen, and the value of each of its keys."""

    section: Section
    kind: str
    values: Mapping[str, Any]
    name: str
    """The table's path."""

    def build(self, **context: Any) -> Any:
        """Return what the plug-in makes of its values and those of ``context`` that it has parameters for.

        Raises
        ------
        ConfigError : the plug-in refuses the values; its message is prefixed with the table's path.
        """
        plugin = self.section.kinds[self.kind]
        wanted = inspect.signature(plugin).parameters
        own = {name: value for name, value in self.values.items() if name not in self.section.extra}
        try:
            return plugin(**{**own, **{name: value for name, value in context.items() if name in wanted}})
        except MemoryError:
            raise ConfigError(f"{self.name}: needs more memory than there is") from None
        except ConfigError as error:
            key = str(error).split(":", 1)[0]
            raise ConfigError(f"{self.name}{'.' if key in self.values else ': '}{error}") from None

    def table(self) -> dict[str, Any]:
        """Return the table for TOML, which has no None: such keys are left out."""
        table = {"kind": self.kind, **{name: _plain(value) for name, value in self.values.items() if value is not None}}
        if self.section.parts is not None and self.section.parts[0] in table:
            key = self.section.parts[0]
            table[key] = [part.table() for part in table[key]]
        return {name: value.table() if isinstance(value, Choice) else value for name, value in table.items()}


ModelT = typing.TypeVar("ModelT", bound=BaseModel)


def validate(model: type[ModelT], values: Mapping[str, Any], path: str, where: str = "") -> ModelT:
    """Return ``values`` as an instance of ``model``.

    Raises
    ------
    ConfigError : the first finding, with its dotted path under ``path``.
    """
    unknown = [key for key in values if key not in model.model_fields]
    prefix = f"{path}." if path else ""
    if unknown:
        near = _nearest(unknown[0], model.model_fields)
        raise ConfigError(f"{prefix}{unknown[0]}: unknown key{where}{near}")
    try:
        return model.model_validate({key: _frozen(value) for key, value in values.items()})
    except ValidationError as error:
        findings = error.errors(include_url=False)
        # A key of several types has a finding for each: the one that goes deepest is of the type that was meant.
        first = max((one for one in findings if one["loc"][0] == findings[0]["loc"][0]), key=lambda one: len(one["loc"]))
        place = first["loc"]
        # A part is a key, a place in a list, or a key of what lies there; others name the types that were tried.
        # Of two names after the key, the first is a type's and the second a key in a table of that type.
        shown = [
            i == 0 or isinstance(part, int) or isinstance(place[i - 1], int) or (i == 2 and isinstance(part, str))
            for i, part in enumerate(place)
        ]
        location = prefix + ".".join(str(part) for part, is_key in zip(place, shown, strict=True) if is_key)
        if first["type"] == "missing":
            raise ConfigError(f"{location}: missing") from None
        found = first["input"]
        listed = list(found) if isinstance(found, tuple) else found
        raise ConfigError(f"{location}: {listed!r}: {_lower(first['msg'])}") from None


def _fields(plugin: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return a plug-in's keys with their types and defaults."""
    target = plugin.__init__ if inspect.isclass(plugin) else plugin
    hints = typing.get_type_hints(target, include_extras=True)
    return {
        name: (hints[name], ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(plugin).parameters.items()
        if name not in CONTEXT
    }


@cache
def _model(section: Section, kind: str) -> type[BaseModel]:
    fields: dict[str, Any] = {**_fields(section.kinds[kind]), **section.extra}
    if section.parts is not None and section.parts[0] in fields:
        fields[section.parts[0]] = (tuple[dict[str, Any], ...], ...)
    return create_model(f"{section.name}_{kind}", __base__=Table, **fields)


def _nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint: the nearest valid name, and all of them."""
    names = list(valid)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (valid: {', '.join(names) if names else 'none'})"


def _frozen(value: Any) -> Any:
    """Turn TOML's lists into tuples, deeply."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """Turn a table, or tables in a list, into what TOML can hold."""
    if isinstance(value, Table):
        return value.model_dump()
    return [item.model_dump() if isinstance(item, Table) else item for item in value] if isinstance(value, tuple) else value


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]

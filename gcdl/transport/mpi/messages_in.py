"""Reading the JSON bodies of control messages: every field is checked before anything is done with it."""

from __future__ import annotations

from typing import Any, TypeVar

from gcdl.errors import MessageError
from gcdl.protocol.wire import Header, read_json
from gcdl.types import Buffer

Value = TypeVar("Value")


class Body:
    """The JSON object in a message's body.

    Raises
    ------
    MessageError : the body is no JSON object; or, when a field is asked for, it is missing or of another type.
    """

    def __init__(self, header: Header, buffer: Buffer) -> None:
        self._kind = header.kind.name
        self._fields = read_json(header, buffer)

    def get(self, name: str, kind: type[Value]) -> Value:
        """Return a field that must be there, and of this type."""
        value = self._fields.get(name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise MessageError(f"a {self._kind} message whose {name!r} is {value!r}, not a {kind.__name__}")
        return value

    def numbers(self, name: str, count: int) -> list[int] | None:
        """Return a field that is a list of so many integers; None if it is null."""
        value: Any = self._fields.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count or not all(type(item) is int for item in value):
            raise MessageError(f"a {self._kind} message whose {name!r} is {value!r}, not {count} integers")
        return value

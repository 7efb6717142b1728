"""What the master is told of an exception on another rank: gcdl's own errors speak for themselves, others bring a traceback."""

from __future__ import annotations

import traceback

from gcdl.errors import GcdlError, WorkerError
from gcdl.transport.mpi.job import CONTROL_BYTES

_TRACEBACK_CHARACTERS = CONTROL_BYTES // 8  # a character takes up to six bytes of JSON


def error_fields(error: BaseException) -> dict[str, object]:
    """Return the fields of an ERROR message, JSON-ready."""
    expected = isinstance(error, GcdlError)
    text = "" if expected else "".join(traceback.format_exception(error))
    return {
        "message": str(error) if expected else f"{type(error).__name__}: {error}"[:1000],
        "traceback": text[-_TRACEBACK_CHARACTERS:],
        "exit_code": error.exit_code if isinstance(error, GcdlError) else WorkerError.exit_code,
    }

"""How a command says what went wrong."""

from __future__ import annotations

import sys
import traceback

from rich.console import Console
from rich.text import Text

from gcdl.errors import GcdlError, Interrupted, WorkerError


def tell(error: BaseException) -> int:
    """Print one message for an error, with a traceback only where it is a bug or a worker's; return the exit code."""
    if not isinstance(error, GcdlError):
        traceback.print_exception(error)
        return Interrupted.exit_code if isinstance(error, KeyboardInterrupt) else GcdlError.exit_code
    if isinstance(error, WorkerError) and error.traceback:
        print(error.traceback.rstrip(), file=sys.stderr)
    # A config or a file may hold bytes that would be commands to the terminal.
    text = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(error))
    Console(stderr=True).print(Text(f"gcdl: {text}"), soft_wrap=True)
    return error.exit_code
